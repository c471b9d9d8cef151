"""What decoders differ in from family to family, as enumerations and numbers, and how checkpoints spell it.

A spec's defaults are Llama's. Numbers only: no torch, no weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, Final

from inference.reading import Refused

TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linears of a layer, each of which an adapter may change. A plain MLP has no gate_proj."""
EMBEDDING: Final = "embed_tokens"
HEAD: Final = "lm_head"
"""What an adapter may change beside the layers: the table of tokens, and the linear to the vocabulary."""
QKV: Final = TARGETS[:3]
GATE_UP: Final = TARGETS[4:6]
LAST_NORM: Final = "last_norm"
NORMS: Final = (
    *("attention_norm", "attention_out_norm", "mlp_norm", "mlp_out_norm", "q_norm", "k_norm"),
    LAST_NORM,
)
"""What norms rows: before attention and MLP, behind them, queries and keys, and before the head. Of a LayerNorm an
adapter may have the bias, and of no norm anything else."""

IN_FEWER_BITS: Final = (
    r"(qweight|qzeros|scales|g_idx|SCB|weight_format"
    r"|weight\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.bitsandbytes__\w+))"
)
"""What GPTQ, AWQ and bitsandbytes have in place of a linear's weight, or beside it, as an expression."""

_WRAPPER: Final = re.compile(r"^(?:model\.)?language_model\.(?:model\.)?")


def plain_name(name: str) -> str:
    """The name of a tensor or module without what wraps a language model that was published with one for pictures."""
    bare = _WRAPPER.sub("", name)
    return bare if bare == name or bare.startswith(HEAD) else f"model.{bare}"


class ArchitectureError(Refused):
    """A config.json that describes a model this decoder does not compute."""


class Norm(IntEnum):
    """How rows are normed: to unit mean square, times a weight in the rows' type or in float32; or as LayerNorm has it,
    with a bias."""

    RMS = 0
    RMS_FLOAT32 = 1
    LAYER = 2


class NormPlace(IntEnum):
    """Where a block's norms stand: what goes into attention and MLP is normed, what comes out of them, or both."""

    BEFORE = 0
    AFTER = 1
    BOTH = 2


class HeadNorm(IntEnum):
    """How queries and keys are normed before they turn: each head by one weight for all, each by its own, or the whole
    projection at once."""

    NONE = 0
    BY_HEAD = 1
    EACH_HEAD = 2
    WHOLE = 3


class Activation(IntEnum):
    """What the MLP bends its inner rows with."""

    SILU = 0
    GELU_TANH = 1
    GELU = 2


@dataclass(frozen=True)
class Rope:
    """Rotary embedding: its base frequency `theta`, its scaling `kind` and that kind's numbers from the config."""

    theta: float = 10000.0
    kind: str = "default"
    scaling: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class DecoderSpec:
    """The arithmetic of a decoder beside its sizes. Layers are in order; an empty tuple means all of them.

    `norm_offset` is added to the weights of norms as they are read. `biased` are the targets, and perhaps `HEAD`, whose
    linears have a bias. `rotary_part` of a head turns, its pairs beside each other where `is_interleaved`, and only in
    the layers that `turning` says. The window counts in layers that `windowed` says, which turn by `local_rope` if
    there is one. A cap of 0 is none; `attention_scale` of 0 is one over the root of the head's width.
    """

    norm: Norm = Norm.RMS
    norm_offset: float = 0.0
    norm_place: NormPlace = NormPlace.BEFORE
    head_norm: HeadNorm = HeadNorm.NONE
    biased: frozenset[str] = frozenset()
    activation: Activation = Activation.SILU
    is_gated: bool = True
    is_parallel: bool = False
    """Whether attention and MLP read the same normed rows, and both are added to what came in."""
    rotary_part: float = 1.0
    is_interleaved: bool = False
    turning: tuple[bool, ...] = ()
    windowed: tuple[bool, ...] = ()
    local_rope: Rope | None = None
    score_cap: float = 0.0
    logit_cap: float = 0.0
    embedding_multiplier: float = 1.0
    attention_scale: float = 0.0
    residual_multiplier: float = 1.0
    logit_multiplier: float = 1.0

    def beyond_llama(self, computed: Collection[str] = ()) -> tuple[str, ...]:
        """What a decoder would have to learn for this one, in words, if it computes Llama and the fields `computed`."""
        default = DecoderSpec()
        names = (field.name for field in fields(self) if field.name not in (*computed, *_IN_WEIGHTS))
        return tuple(_WORDS.get(name, name) for name in names if getattr(self, name) != getattr(default, name))


_IN_WEIGHTS: Final = ("norm_offset",)
"""What a decoder finds done in the weights."""
_WORDS: Final = {
    "norm": "norms of another kind than Llama's",
    "norm_place": "norms behind attention and MLP",
    "head_norm": "norms of queries and keys",
    "biased": "linears with a bias",
    "activation": "GELU",
    "is_gated": "an MLP without a gate",
    "is_parallel": "attention beside the MLP",
    "rotary_part": "heads that turn in part",
    "is_interleaved": "rotary pairs beside each other",
    "turning": "layers without a rotary embedding",
    "windowed": "a window in some layers only",
    "local_rope": "two rotary embeddings",
    "score_cap": "capped attention scores",
    "logit_cap": "capped logits",
    "embedding_multiplier": "multiplied embeddings",
    "attention_scale": "another scale of attention scores",
    "residual_multiplier": "multiplied residuals",
    "logit_multiplier": "multiplied logits",
}


@dataclass(frozen=True)
class Names:
    """How checkpoints and adapters of a family spell a layer's parts. Where `fused` says so, several targets are one
    linear of another name, their outputs one behind the other or, if it `is_by_head`, those of queries, keys and values
    together that belong to one key head."""

    paths: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Targets that lie elsewhere than Llama's."""
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    attention_norm: str = "input_layernorm"
    attention_out_norm: str = ""
    mlp_norm: str = "post_attention_layernorm"
    mlp_out_norm: str = ""
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    last_norm: str = "norm"
    default_targets: tuple[str, ...] = ("q_proj", "v_proj")
    """What PEFT trains when target_modules is null."""
    is_by_head: bool = False
    layers: str = "model.layers"
    first_layer: int = 0
    """The number by which the first layer goes."""
    whose: str = ""
    """Whose code spells so, if it is not the family's."""
    others: tuple[Names, ...] = ()
    """How other code spells the same, of which adapters are read too."""

    def numbered(self, module: str) -> tuple[int, str]:
        """The layer that `module` lies in, from 0, and its path there; of any other -1 and the whole name."""
        found = re.fullmatch(rf"{re.escape(self.layers)}\.([0-9]{{1,5}})\.(.+)", module)
        layer = int(found[1]) - self.first_layer if found else -1
        return (layer, found[2]) if found and layer >= 0 else (-1, module)

    def path(self, target: str) -> str:
        """Where `target` lies in a layer, by itself: ``self_attn.q_proj`` or ``mlp.up_proj``."""
        block = "self_attn" if target in TARGETS[:4] else "mlp"
        return self.paths.get(target, f"{block}.{target}")

    def fused_path(self, target: str) -> str:
        """Where the linear lies that holds `target` among others; empty if it stands by itself."""
        return next((path for path, members in self.fused.items() if target in members), "")
