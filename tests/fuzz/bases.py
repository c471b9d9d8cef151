"""Sound files of a tiny base model: config.json of every family, weights in full and in fewer bits, and a GGUF file."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import safetensors.numpy

from inference.model.architecture import parse_architecture
from inference.model.families.known import SUPPORTED
from inference.model.tensor_names import needed

SIZES: Final[dict[str, Any]] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
ROPE: Final = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 32}
CONFIGS: Final[list[Any]] = [
    *({"architectures": [name], **SIZES} for name in SUPPORTED),
    {"architectures": ["LlamaForCausalLM"], **SIZES, "rope_parameters": ROPE, "attention_bias": True},
    {"architectures": ["SmolLM3ForCausalLM"], **SIZES, "no_rope_layers": [1], "layer_types": ["full_attention"]},
    {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {**SIZES, "sliding_window_pattern": 2}},
    {"architectures": ["MistralForCausalLM"], **SIZES, "rope_scaling": {"type": "linear", "factor": 2}, "head_dim": 16},
]
LLAMA: Final = {"architectures": ["LlamaForCausalLM"], **SIZES, "tie_word_embeddings": True}
GPTQ: Final = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}
NF4: Final = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
EIGHT: Final = {"quant_method": "bitsandbytes", "load_in_8bit": True}
SCHEMES: Final[list[Any]] = [None, GPTQ, GPTQ | {"quant_method": "awq"}, NF4, EIGHT]
ANSWERS: Final[list[Any]] = [
    {
        "generation": {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "eos_token_id": [2, 3]},
        "config": {"eos_token_id": 2, "vocab_size": 40, "text_config": {"eos_token_id": [1]}},
        "settings": {"eos_token": {"content": "</s>"}, "eos_token_id": 2},
    },
    {"generation": {"stop_strings": ["###"], "repetition_penalty": 1.1, "num_beams": 1}, "config": {}, "settings": {}},
]


def weights(scheme: Mapping[str, Any] | None) -> bytes:
    """A safetensors file of `LLAMA` whose linears are quantised by `scheme`."""
    tensors: dict[str, np.ndarray] = {}
    for name in sorted(needed(parse_architecture(LLAMA))):
        module, kind = name.removesuffix(".weight"), scheme["quant_method"] if scheme else ""
        shape = _shape(name)
        if not kind or "_proj" not in name:
            tensors[name] = np.ones(shape, np.float32)
        elif kind == "bitsandbytes":
            tensors |= _four(name, shape) if "load_in_4bit" in (scheme or {}) else _eight(name, shape)
        else:
            out, width = shape
            words = (width // 8, out) if kind == "gptq" else (width, out // 8)
            tensors[f"{module}.qweight"] = np.zeros(words, np.int32)
            tensors[f"{module}.qzeros"] = np.zeros((width // 32, out // 8), np.int32)
            tensors[f"{module}.scales"] = np.ones((width // 32, out), np.float16)
            if kind == "gptq":
                tensors[f"{module}.g_idx"] = (np.arange(width) // 32).astype(np.int32)
    return safetensors.numpy.save(tensors)


def _shape(name: str) -> tuple[int, ...]:
    architecture = parse_architecture(LLAMA)
    target = name.split(".")[-2]
    if "norm" in name:
        return (architecture.hidden_size,)
    shape = architecture.target_shape(target)
    return shape if target == "embed_tokens" else shape[::-1]


def _four(name: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    out, width = shape
    told = {"quant_type": "nf4", "blocksize": 64, "shape": [out, width], "dtype": "float16"}
    return {
        name: np.zeros((out * width // 2, 1), np.uint8),
        f"{name}.absmax": np.ones(out * width // 64, np.float32),
        f"{name}.quant_map": np.linspace(-1, 1, 16, dtype=np.float32),
        f"{name}.quant_state.bitsandbytes__nf4": np.frombuffer(json.dumps(told).encode(), np.uint8),
    }


def _eight(name: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    beside = name.removesuffix(".weight")
    return {name: np.ones(shape, np.int8), f"{beside}.SCB": np.ones(shape[0], np.float32)}


# GGUF

TOKENS: Final = [*map(chr, range(33, 71)), "<s>", "</s>"]
FIELDS: Final[dict[str, Any]] = {
    "general.architecture": "llama",
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "default",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [1] * 38 + [3] * 2,
    "tokenizer.ggml.merges": [],
    "tokenizer.ggml.bos_token_id": 38,
    "tokenizer.ggml.eos_token_id": 39,
}
OTHER_LETTERS: Final = {"tokenizer.ggml.tokens": [chr(0x4E00 + number) for number in range(40)]}
_BLOCKS: Final = {"attn_q": (32, 32), "attn_k": (32, 32), "attn_v": (32, 32), "attn_output": (32, 32)}
_MLP: Final = {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64), "attn_norm": (32,), "ffn_norm": (32,)}
TABLE: Final[list[Any]] = [
    {"name": name, "shape": list(shape), "kind": 0, "offset": None}
    for name, shape in {
        "token_embd.weight": (40, 32),
        "output_norm.weight": (32,),
        **{f"blk.0.{name}.weight": shape for name, shape in (_BLOCKS | _MLP).items()},
    }.items()
]
FILE: Final = {"fields": FIELDS, "table": TABLE}


def gguf_bytes(tree: Any) -> bytes:
    """A GGUF file of such a tree as `FILE`, whatever has become of it; what has no form in a file is left out."""
    fields, table = tree.get("fields"), tree.get("table")
    written = [_field(key, value) for key, value in (fields if isinstance(fields, dict) else {}).items()]
    entries, at = [], 0
    for entry in table if isinstance(table, list) else ():
        found, size = _entry(entry if isinstance(entry, dict) else {}, at)
        entries.append(found)
        at += -(-size // 32) * 32
    kept = [field for field in written if field]
    header = b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(kept)) + b"".join(kept) + b"".join(entries)
    return header.ljust(-(-len(header) // 32) * 32, b"\0") + bytes(min(at, 1 << 16))


def _field(key: Any, value: Any) -> bytes:
    try:
        kind, data = _value(value)
    except (struct.error, TypeError, OverflowError, ValueError):
        return b""
    return _text(key) + struct.pack("<I", kind) + data


def _value(value: Any) -> tuple[int, bytes]:
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return (4, struct.pack("<I", value)) if 0 <= value < 2**32 else (11, struct.pack("<q", value))
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return 8, _text(value)
    kinds = [_value(each) for each in value]
    kind = kinds[0][0] if kinds else 4
    if not isinstance(value, list) or any(other != kind for other, _ in kinds):
        raise ValueError("no array of one kind")
    return 9, struct.pack("<IQ", kind, len(kinds)) + b"".join(data for _, data in kinds)


def _entry(entry: Mapping[str, Any], at: int) -> tuple[bytes, int]:
    shape = entry.get("shape")
    sizes = [size for size in shape if type(size) is int and 0 <= size < 2**64] if isinstance(shape, list) else []
    offset = entry.get("offset")
    offset = offset if type(offset) is int and 0 <= offset < 2**64 else at
    kind = entry.get("kind")
    kind = kind if type(kind) is int and 0 <= kind < 2**32 else 0
    data = _text(entry.get("name")) + struct.pack("<I", len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes[::-1])
    size = 4
    for each in sizes:
        size = min(size * each, 1 << 16)
    return data + struct.pack("<IQ", kind, offset), size


def _text(value: Any) -> bytes:
    data = str(value).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data
