"""What GGUF calls the tensors that checkpoints of Hugging Face name otherwise."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from inference.model.architecture import Architecture

_LAYER: Final = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")
_IN_LAYER: Final = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_ON_TOP: Final = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
FACTORS: Final = "rope_freqs.weight"
"""By what each frequency of the rotary embedding is divided."""


@dataclass(frozen=True)
class Place:
    """A tensor of a GGUF file. Of `heads` heads whose rows are interleaved for ggml's rotary embedding; 0 for none."""

    tensor: str
    heads: int = 0


def place_of(name: str, architecture: Architecture) -> Place:
    """Where the tensor lies that checkpoints call `name`. One that they do not have lies nowhere: its own name."""
    found = _LAYER.fullmatch(name)
    if found is None or found[2] not in _IN_LAYER:
        return Place(_ON_TOP.get(name, name))
    kind = _IN_LAYER[found[2]]
    heads = {"attn_q": architecture.num_heads, "attn_k": architecture.num_kv_heads}.get(kind, 0)
    return Place(f"blk.{found[1]}.{kind}.weight", heads)


def names_in(architecture: Architecture) -> list[str]:
    """All names that `place_of` knows for this model."""
    layers = (f"model.layers.{layer}.{kind}.weight" for layer in range(architecture.num_layers) for kind in _IN_LAYER)
    return [*_ON_TOP, *layers]
