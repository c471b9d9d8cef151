"""How other code spells models that are served here: what adapters that were trained on it are called, and whose a
foreign name is. Rows of fused linears lie as that code takes them apart."""

from __future__ import annotations

from typing import Final

from inference.model.spec import GATE_UP, QKV, Names

_PHI: Final = {"o_proj": "mixer.out_proj", "up_proj": "mlp.fc1", "down_proj": "mlp.fc2"}
PHI_2: Final = Names(
    paths=_PHI,
    fused={"mixer.Wqkv": QKV},
    attention_norm="ln",
    layers="transformer.h",
    whose="Phi-2's first code",
)
"""Of modeling_phi.py on the hub, whose MHA cuts Wqkv as ``(three h d)``."""
PHI_1: Final = Names(
    paths=_PHI,
    fused={"mixer.Wqkv": QKV},
    attention_norm="ln",
    first_layer=1,
    whose="Phi-1.5's first code",
)
"""Of modeling_mixformer_sequential.py, the same in one sequence of layers, of which the first is the embedding."""
PHI_FUSED: Final = Names(
    paths={"o_proj": "self_attn.dense", "up_proj": "mlp.fc1", "down_proj": "mlp.fc2"},
    fused={"self_attn.query_key_value": QKV},
    is_by_head=True,
    last_norm="final_layernorm",
    whose="transformers 4.36",
)
"""Of transformers 4.36, whose _split_heads takes query_key_value as (heads, 3, head_dim)."""
CHATGLM: Final = Names(
    paths={"o_proj": "self_attention.dense", "down_proj": "mlp.dense_4h_to_h"},
    fused={"self_attention.query_key_value": QKV, "mlp.dense_h_to_4h": GATE_UP},
    layers="transformer.encoder.layers",
    default_targets=("query_key_value",),
    whose="ChatGLM's own code",
)
"""Of modeling_chatglm.py of ChatGLM2 to GLM-4: queries, keys and values one behind the other, grouped heads too, and
silu of the first half of dense_h_to_4h times the second."""
QWEN_1: Final = Names(
    paths={"o_proj": "attn.c_proj", "up_proj": "mlp.w1", "gate_proj": "mlp.w2", "down_proj": "mlp.c_proj"},
    fused={"attn.c_attn": QKV},
    layers="transformer.h",
    default_targets=("c_attn",),
    whose="the first Qwen's own code",
)
"""Of modeling_qwen.py: c_attn is split in three, and the MLP is w1 times silu of w2."""
BAICHUAN: Final = Names(fused={"self_attn.W_pack": QKV}, whose="Baichuan's own code")
"""Of modeling_baichuan.py, Llama but for W_pack, which is unflattened to (3, hidden)."""
INTERNLM2: Final = Names(
    paths={
        "o_proj": "attention.wo",
        "gate_proj": "feed_forward.w1",
        "up_proj": "feed_forward.w3",
        "down_proj": "feed_forward.w2",
    },
    fused={"attention.wqkv": QKV},
    is_by_head=True,
    whose="InternLM2's own code",
)
"""Of modeling_internlm2.py, which takes wqkv as ``(h gs d)``: of each key head its queries, its key and its value."""

PHI_INSTEAD: Final = "take microsoft/phi-2 or phi-1_5 as transformers has them"
CHATGLM_INSTEAD: Final = "take the copy whose name ends in -hf, or GLM-4-0414"
LLAMA_INSTEAD: Final = "take a copy in Llama's names"
"""What is read instead of bases that come with code of their own."""
_WHOSE: Final = (
    (".mixer.", "Phi's first code of its own", PHI_INSTEAD),
    ("transformer.encoder.layers.", "ChatGLM's own code", CHATGLM_INSTEAD),
    (".self_attention.query_key_value.", "Falcon's or BLOOM's code", "no copy of these is served"),
    (".attention.query_key_value.", "GPT-NeoX' code", "no copy of it is served"),
    (".attn.c_attn.", "GPT-2's or the first Qwen's code", "of its kin Qwen2 and later work"),
    (".self_attn.W_pack.", "Baichuan's own code", LLAMA_INSTEAD),
    (".attention.wqkv.", "InternLM2's own code", LLAMA_INSTEAD),
    (".attention.wq.", "Meta's or Mistral's own code", "take the copy in the form of Hugging Face"),
    (".lora_A.", "an adapter of PEFT and no base", "give the base that it was trained on"),
)
"""Parts of names, whose they are, and what would be read instead."""


def whose(name: str) -> tuple[str, str]:
    """Whose code spells a tensor or a module `name`, and what base would be read instead; empty for any other."""
    return next(((owner, instead) for part, owner, instead in _WHOSE if part in f"{name}."), ("", ""))
