"""Which numbers of a config.json a decoder can be made of, before anything is: each of its kind, and within bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from inference.model.spec import ArchitectureError
from inference.reading import shown

_WHOLE: Final = {
    "vocab_size": 2**24,
    "hidden_size": 2**20,
    "intermediate_size": 2**22,
    "num_hidden_layers": 1024,
    "num_attention_heads": 4096,
}
"""Whole numbers that must be there, from 1 to these."""
_OPTIONAL: Final = {"num_key_value_heads": 4096, "head_dim": 4096}
"""The same of those that may be null."""
_LONGEST: Final = 2**30
_OF_SCALING: Final = {
    "linear": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""What a kind of rotary scaling is made of."""


def check_sizes(config: Mapping[str, Any], eps: str, has_window: bool) -> None:
    """Raises `ArchitectureError` for the first of a model's sizes that is none. `eps` names what its norms add, and
    `has_window` says whether `sliding_window` means anything."""
    lacking = [key for key in _WHOLE if config.get(key) is None]
    if lacking:
        raise ArchitectureError(f"the config.json lacks a whole number for {', '.join(lacking)}")
    bounds = _WHOLE | {key: most for key, most in _OPTIONAL.items() if config.get(key) is not None}
    bounds |= {"max_position_embeddings": _LONGEST} if "max_position_embeddings" in config else {}
    bounds |= {"sliding_window": _LONGEST} if has_window and config.get("sliding_window") is not None else {}
    for key, most in bounds.items():
        value = config.get(key)
        if type(value) is not int or not 1 <= value <= most:
            raise ArchitectureError(f"{key} is {shown(value)}; it is a whole number from 1 to {most:,}")
    _check_positive(eps, config.get(eps, 1e-6))


def check_scaling(kind: str, theta: Any, scaling: Mapping[str, Any]) -> None:
    """The same for the numbers of a rotary embedding."""
    _check_positive("rope_theta", theta)
    if kind in _OF_SCALING and "factor" not in scaling:
        raise ArchitectureError(f"the rotary scaling {kind!r} needs a factor")
    for key in _OF_SCALING.get(kind, ()):
        _check_positive(f"the rotary scaling's {key}", scaling.get(key))


def _check_positive(name: str, value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise ArchitectureError(f"{name} is {shown(value)}; it is a number above 0")
