"""What a Llama-like decoder looks like, read from its config.json. Numbers only: no torch, no weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

SUPPORTED: Final = ("LlamaForCausalLM", "MistralForCausalLM")
ROPE_TYPES: Final = ("default", "linear", "dynamic", "llama3", "yarn")
TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linears of a layer, each of which an adapter may change."""
EMBEDDING: Final = "embed_tokens"
HEAD: Final = "lm_head"
"""What an adapter may change beside the layers: the table of tokens, and the linear to the vocabulary."""
_ATTENTION: Final = frozenset(TARGETS[:4])
_LAYER: Final = re.compile(r"model\.layers\.([0-9]{1,5})\.")


class ArchitectureError(ValueError):
    """A config.json that describes a model this decoder does not compute."""


@dataclass(frozen=True)
class Rope:
    """Rotary embedding: its base frequency `theta`, its scaling `kind` and that kind's numbers from the config."""

    theta: float = 10000.0
    kind: str = "default"
    scaling: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """The shape of a decoder, and the name that sentences give it.

    `sliding_window` counts tokens a row may look back to, itself included; None is all.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    max_position: int
    rope: Rope = field(default_factory=Rope)
    sliding_window: int | None = None
    tied_embeddings: bool = False
    name: str = field(default="the base", repr=False, compare=False)

    def target_shape(self, target: str) -> tuple[int, int]:
        """(in features, out features) of `target`: one of `TARGETS`, `EMBEDDING` or `HEAD`."""
        heads, kv_heads = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden_size, heads),
            "k_proj": (self.hidden_size, kv_heads),
            "v_proj": (self.hidden_size, kv_heads),
            "o_proj": (heads, self.hidden_size),
            "gate_proj": (self.hidden_size, self.intermediate_size),
            "up_proj": (self.hidden_size, self.intermediate_size),
            "down_proj": (self.intermediate_size, self.hidden_size),
            EMBEDDING: (self.vocab_size, self.hidden_size),
            HEAD: (self.hidden_size, self.vocab_size),
        }[target]

    def target_layers(self, target: str) -> int:
        """How many modules of the base are a `target`: one in each layer, or the one embedding or head."""
        return 1 if target in (EMBEDDING, HEAD) else self.num_layers

    def modules(self) -> Iterator[str]:
        """All modules that an adapter may change, as checkpoints name them."""
        for target in (*TARGETS, EMBEDDING, HEAD):
            yield from (module_name(target, layer) for layer in range(self.target_layers(target)))

    def place(self, module: str) -> tuple[str, int] | None:
        """The target and the layer whose `module_name` is `module`; None when this decoder has no such module."""
        numbered = _LAYER.match(module)
        layer = int(numbered[1]) if numbered else 0
        named = (target for target in (*TARGETS, EMBEDDING, HEAD) if module_name(target, layer) == module)
        target = next(named, None)
        return (target, layer) if target and layer < self.target_layers(target) else None


def layer_of(module: str) -> str:
    """The number of the layer that `module` lies in; empty for the embedding and the head."""
    numbered = _LAYER.match(module)
    return numbered[1] if numbered else ""


def module_path(target: str) -> str:
    """Where `target` lies in a layer, as checkpoints name it: ``self_attn.q_proj`` or ``mlp.up_proj``."""
    return f"{'self_attn' if target in _ATTENTION else 'mlp'}.{target}"


def module_name(target: str, layer: int) -> str:
    """The module `target` of `layer` as checkpoints name it: ``model.layers.0.mlp.up_proj`` or ``lm_head``."""
    if target == HEAD:
        return HEAD
    return f"model.{EMBEDDING}" if target == EMBEDDING else f"model.layers.{layer}.{module_path(target)}"


def read_architecture(path: Path) -> Architecture:
    """Read the config.json at `path`; the model is named by its folder.

    Raises `ArchitectureError` for a model that the decoder does not compute.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArchitectureError(f"{path} is missing; a model directory holds a config.json") from error
    except ValueError as error:
        raise ArchitectureError(f"{path} is not JSON: {error}") from error
    return replace(parse_architecture(config), name=path.parent.name)


def parse_architecture(config: dict[str, Any]) -> Architecture:
    """The `Architecture` that a config.json describes; raises `ArchitectureError` naming what does not fit."""
    _check_supported(config)
    heads = config["num_attention_heads"]
    rope = _parse_rope(config)
    return Architecture(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        norm_eps=config.get("rms_norm_eps", 1e-6),
        max_position=config.get("max_position_embeddings", 2048),
        rope=rope,
        sliding_window=config.get("sliding_window"),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
    )


def _check_supported(config: dict[str, Any]) -> None:
    names = config.get("architectures") or ["none named"]
    if names[0] not in SUPPORTED:
        raise ArchitectureError(f"the architecture {names[0]} is not supported; supported are {', '.join(SUPPORTED)}")
    required = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    missing = [key for key in required if not isinstance(config.get(key), int)]
    if missing:
        raise ArchitectureError(f"the config.json lacks a whole number for {', '.join(missing)}")
    if config.get("hidden_act", "silu") != "silu":
        raise ArchitectureError(f"the activation {config['hidden_act']!r} is not supported; supported is silu")
    biased = [key for key in ("attention_bias", "mlp_bias") if config.get(key)]
    if biased:
        raise ArchitectureError(f"linears with a bias ({', '.join(biased)}) are not supported")


def _parse_rope(config: dict[str, Any]) -> Rope:
    """Read both spellings: ``rope_parameters``, and the older ``rope_theta`` beside ``rope_scaling``."""
    scaling = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = scaling.pop("rope_type", None) or scaling.pop("type", None) or "default"
    theta = scaling.pop("rope_theta", None) or config.get("rope_theta") or 10000.0
    if kind not in ROPE_TYPES:
        raise ArchitectureError(f"the rotary scaling {kind!r} is not supported; supported are {', '.join(ROPE_TYPES)}")
    if kind not in ("default", "dynamic") and "factor" not in scaling:
        raise ArchitectureError(f"the rotary scaling {kind!r} needs a factor")
    return Rope(theta=float(theta), kind=kind, scaling=scaling)
