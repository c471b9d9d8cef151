"""Which values of a config.json a decoder can be made of, before anything is: each of its kind, and within bounds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from inference.model.spec import ArchitectureError
from inference.reading import shown

_LONGEST: Final = 2**30
_LARGEST: Final = 1e30
"""Beyond this nothing is left of a number in float32, or of its square."""
_WHOLE: Final = {
    "vocab_size": 2**24,
    "hidden_size": 2**20,
    "intermediate_size": 2**22,
    "num_hidden_layers": 1024,
    "num_attention_heads": 4096,
}
"""Whole numbers that must be there, from 1 to these."""
_OPTIONAL: Final = {
    "num_key_value_heads": 4096,
    "head_dim": 4096,
    "sliding_window": _LONGEST,
    "sliding_window_pattern": 1024,
    "no_rope_layer_interval": 1024,
    "original_max_position_embeddings": _LONGEST,
}
"""The same of those that may be null."""
_POSITIVE: Final = (
    *(
        "query_pre_attn_scalar",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "rope_theta",
        "rope_local_base_freq",
    ),
    *("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling", "partial_rotary_factor"),
)
"""Numbers above 0, or null."""
_TRUTHS: Final = (
    *("attention_bias", "mlp_bias", "use_qkv_bias", "qk_layernorm", "use_parallel_residual", "use_sliding_window"),
    "tie_word_embeddings",
)
_OBJECTS: Final = ("rope_parameters", "rope_scaling")
_KINDS: Final = ("full_attention", "sliding_attention")
_OF_SCALING: Final = {
    "linear": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""What a kind of rotary scaling is made of."""


def check_values(config: Mapping[str, Any], eps: str, firm: Collection[str]) -> None:
    """Raises `ArchitectureError` for the first value of `config` of which no model is made. `eps` names what norms add,
    and `firm` are keys that a config may leave out, for the family has a number of its own, but not set to null."""
    lacking = [key for key in _WHOLE if config.get(key) is None]
    if lacking:
        raise ArchitectureError(f"the config.json lacks a whole number for {', '.join(lacking)}")
    if empty := [key for key in firm if config.get(key) is None]:
        raise ArchitectureError(f"{empty[0]} is null; give its value, or leave it out for the one that the family has")
    bounds = _WHOLE | {key: most for key, most in _OPTIONAL.items() if config.get(key) is not None}
    bounds |= {"max_position_embeddings": _LONGEST} if "max_position_embeddings" in config else {}
    for key, most in bounds.items():
        _check_whole(key, config.get(key), 1, most)
    _check_whole("max_window_layers", config.get("max_window_layers", 0), 0, 1024)
    _check_positive(eps, config.get(eps, 1e-6))
    for key in _POSITIVE:
        if config.get(key) is not None:
            _check_positive(key, config[key])
    _check_kinds(config)
    _check_layers(config)


def check_scaling(kind: str, theta: Any, scaling: Mapping[str, Any]) -> None:
    """The same for the numbers of a rotary embedding."""
    _check_positive("rope_theta", theta)
    if kind in _OF_SCALING and "factor" not in scaling:
        raise ArchitectureError(f"the rotary scaling {kind!r} needs a factor")
    for key in _OF_SCALING.get(kind, ()):
        _check_positive(f"the rotary scaling's {key}", scaling.get(key))


def _check_kinds(config: Mapping[str, Any]) -> None:
    for key in _TRUTHS:
        if key in config and not isinstance(config[key], bool):
            raise ArchitectureError(f"{key} is {shown(config[key])}; it is true or false")
    for key in _OBJECTS:
        if config.get(key) is not None and not isinstance(config[key], Mapping):
            raise ArchitectureError(f"{key} is {shown(config[key])}; it is an object, or null")


def _check_layers(config: Mapping[str, Any]) -> None:
    """What is told of each layer is told of all."""
    layers = config["num_hidden_layers"]
    for key, wanted in {"layer_types": "kinds of layers", "no_rope_layers": "1 where a layer turns and else 0"}.items():
        told = config.get(key)
        if told is not None and not isinstance(told, list):
            raise ArchitectureError(f"{key} is {shown(told)}; it lists {wanted}")
        if told is not None and len(told) != layers:
            raise ArchitectureError(f"{key} names {len(told)} layers; there are {layers}")
    if unknown := [kind for kind in config.get("layer_types") or () if kind not in _KINDS]:
        raise ArchitectureError(
            f"layers of the kind {shown(unknown[0])} are not supported; supported are {' and '.join(_KINDS)}"
        )
    if wrong := [turns for turns in config.get("no_rope_layers") or () if turns not in (0, 1)]:
        raise ArchitectureError(f"no_rope_layers has {shown(wrong[0])}; it lists 1 where a layer turns and else 0")


def _check_whole(key: str, value: Any, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ArchitectureError(f"{key} is {shown(value)}; it is a whole number from {least} to {most:,}")


def _check_positive(name: str, value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < _LARGEST:
        raise ArchitectureError(f"{name} is {shown(value)}; it is a number above 0")
