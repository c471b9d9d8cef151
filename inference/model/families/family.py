"""A family of bases: what its config.json means as a spec, and how its checkpoints spell it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from inference.model.spec import HEAD, TARGETS, Activation, ArchitectureError, DecoderSpec, Names

Config = Mapping[str, Any]
"""A config.json, the family's defaults where it says nothing."""
_ACTIVATIONS: Final = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu": Activation.GELU,
}


@dataclass(frozen=True)
class Family:
    """`architectures` as config.json names them; `gguf` as GGUF files do, empty where none of them can be told.

    `describe` reads a config, which has `defaults` where it says nothing; it may raise `ArchitectureError`.
    """

    architectures: tuple[str, ...]
    describe: Callable[[Config], DecoderSpec]
    gguf: str = ""
    names: Names = field(default_factory=Names)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    eps: str = "rms_norm_eps"
    has_window: bool = False
    """Whether `sliding_window` means anything."""
    turns_in_part: bool = False
    """Whether `partial_rotary_factor` does."""
    nullable: frozenset[str] = frozenset({"sliding_window", "attn_logit_softcapping", "final_logit_softcapping"})
    """Of `defaults`, what a config may set to null, which then means none."""

    @property
    def firm(self) -> tuple[str, ...]:
        """The others."""
        return tuple(key for key in self.defaults if key not in self.nullable)


def activation(config: Config, key: str = "hidden_act") -> Activation:
    """The activation that `config` names under `key`, SiLU where it names none."""
    name = config.get(key) or "silu"
    if name not in _ACTIVATIONS:
        raise ArchitectureError(f"the activation {name!r} is not supported; supported are {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def biased(config: Config, keys: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """The targets of those `keys` that are true in `config`."""
    return frozenset(target for key, targets in keys.items() if config.get(key) for target in targets)


def windows(config: Config) -> tuple[bool, ...]:
    """Which layers have the window, as `layer_types` says; empty for all."""
    return simplest(tuple(kind == WINDOWED for kind in config.get("layer_types") or ()))


def simplest(layers: tuple[bool, ...]) -> tuple[bool, ...]:
    """`layers`, empty if all are true."""
    return () if all(layers) else layers


def rotary_part(config: Config) -> float:
    """The part of a head that turns, the least that is told anywhere."""
    told = config.get("rope_parameters") or {}
    within = [told, *(part for part in told.values() if isinstance(part, Mapping))]
    parts = [part["partial_rotary_factor"] for part in within if part.get("partial_rotary_factor") is not None]
    return float(min(parts, default=config.get("partial_rotary_factor") or 1.0))


WINDOWED: Final = "sliding_attention"
BY_MODULE: Final = {"attention_bias": TARGETS[:4], "mlp_bias": TARGETS[4:]}
"""The keys by which Llama's kin give linears a bias."""
ALL_LINEARS: Final = frozenset((*TARGETS, HEAD))
