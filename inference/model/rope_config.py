"""The rotary embedding that a config.json describes, in each of the spellings that there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from inference.model.config_values import check_scaling
from inference.model.spec import ArchitectureError, Rope

ROPE_TYPES: Final = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
_ELSEWHERE: Final = ("partial_rotary_factor",)
"""What is told in the same object and is not of the embedding's frequencies."""


def read_rope(config: Mapping[str, Any]) -> Rope:
    """Read both spellings: ``rope_parameters``, and the older ``rope_theta`` beside ``rope_scaling``. Where kinds of
    layers have one each, it is that of full attention."""
    told = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return parse_rope(config, told.get("full_attention") or told)


def parse_rope(config: Mapping[str, Any], told: Mapping[str, Any]) -> Rope:
    """The embedding that `told` describes within `config`. Raises `ArchitectureError`."""
    scaling = {key: value for key, value in told.items() if key not in _ELSEWHERE}
    kind = scaling.pop("rope_type", None) or scaling.pop("type", None) or "default"
    scaling.pop("type", None)
    theta = scaling.pop("rope_theta", None) or config.get("rope_theta") or 10000.0
    # Phi-3 was first published with these names.
    kind = "longrope" if kind == "su" or (kind == "yarn" and "long_factor" in scaling) else kind
    if kind not in ROPE_TYPES:
        raise ArchitectureError(f"the rotary scaling {kind!r} is not supported; supported are {', '.join(ROPE_TYPES)}")
    if kind == "longrope":
        scaling = _longrope(config, scaling)
    check_scaling(kind, theta, scaling)
    return Rope(theta=float(theta), kind=kind, scaling=scaling)


def _longrope(config: Mapping[str, Any], scaling: dict[str, Any]) -> dict[str, Any]:
    """With the length that the model was first trained on, and by how much it was stretched from there."""
    lacking = [key for key in ("short_factor", "long_factor") if not isinstance(scaling.get(key), list)]
    if lacking:
        raise ArchitectureError(f"the rotary scaling 'longrope' needs lists of factors for {', '.join(lacking)}")
    longest = config.get("max_position_embeddings", 2048)
    original = config.get("original_max_position_embeddings") or scaling.get("original_max_position_embeddings")
    original = original or longest
    factor = scaling.get("factor") or longest / original
    return {**scaling, "original_max_position_embeddings": original, "factor": factor, "is_long": longest > original}
