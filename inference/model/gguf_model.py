"""A GGUF file as a Hugging Face model directory: config, weights in bf16, tokenizer.

Only files of the llama architecture are read. Quantised tensors are expanded; the rows of queries and keys,
which GGUF interleaves for its own rotary embedding, are put back in order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import save_file
from torch import Tensor

_LAYER_NAMES: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


class GgufError(ValueError):
    """A GGUF file that cannot be converted."""


def convert_gguf(source: Path, directory: Path) -> None:
    """Write the model in the GGUF file `source` into the existing `directory`. Raises `GgufError`."""
    try:
        reader = GGUFReader(source)
    except (ValueError, IndexError, KeyError) as error:
        raise GgufError(f"{source} is not a readable GGUF file: {error}") from error
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(source, fields, {tensor.name for tensor in reader.tensors})
    save_file(_tensors(reader, config), directory / "model.safetensors", metadata={"format": "pt"})
    _write_json(directory / "config.json", config)
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(directory / "generation_config.json", special)
    _write_tokenizer(source, fields, directory)


def _config(source: Path, fields: dict[str, Any], names: set[str]) -> dict[str, Any]:
    if fields.get("general.architecture") != "llama":
        raise GgufError(f"{source} holds a {fields.get('general.architecture')} model; only llama can be converted")
    if "rope_freqs.weight" in names or any(key.startswith("llama.rope.scaling") for key in fields):
        raise GgufError(f"{source} scales its rotary embedding; use the model's safetensors instead")
    heads = fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("llama.attention.head_count_kv", heads),
        "head_dim": fields.get("llama.rope.dimension_count", fields["llama.embedding_length"] // heads),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": float(fields.get("llama.rope.freq_base", 10000.0)),
        "max_position_embeddings": fields["llama.context_length"],
        "tie_word_embeddings": "output.weight" not in names,
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": fields.get("tokenizer.ggml.padding_token_id"),
        "dtype": "bfloat16",
    }


def _tensors(reader: GGUFReader, config: dict[str, Any]) -> dict[str, Tensor]:
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        kind = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
        if kind in heads:
            # Rows (0, n/2, 1, n/2 + 1, …) of each head back to (0, 1, 2, …).
            pairs = values.view(heads[kind], values.shape[0] // heads[kind] // 2, 2, values.shape[1])
            values = pairs.transpose(1, 2).reshape(values.shape)
        tensors[_name(tensor.name)] = values.to(torch.bfloat16).contiguous()
    return tensors


def _name(name: str) -> str:
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    parts = name.split(".")
    if len(parts) != 4 or parts[0] != "blk" or parts[2] not in _LAYER_NAMES or parts[3] != "weight":
        raise GgufError(f"the tensor {name!r} has no place in a Llama model")
    return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.weight"


def _write_tokenizer(source: Path, fields: dict[str, Any], directory: Path) -> None:
    # transformers takes seconds to import and only this rare conversion needs it.
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    if fields.get("tokenizer.chat_template"):
        tokenizer.chat_template = fields["tokenizer.chat_template"]
    tokenizer.save_pretrained(directory)
    if fields.get("tokenizer.ggml.pre") == "smollm":
        _split_digits(directory / "tokenizer.json")


def _split_digits(path: Path) -> None:
    """Each digit is a word of its own in this family; the conversion forgets it, which shifts spaces before numbers."""
    data = json.loads(path.read_text(encoding="utf-8"))
    digits = {"type": "Digits", "individual_digits": True}
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, data["pre_tokenizer"]]}
    path.write_text(json.dumps(data, ensure_ascii=False, indent=1), encoding="utf-8")


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
