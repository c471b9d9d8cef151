"""Tiny GGUF files as tests write them, with the same model in full beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.torch import save_file

from inference.model.gguf.blocks import BLOCKS

SIZES: dict[str, Any] = {"vocab": 320, "hidden": 256, "inner": 512, "layers": 2, "heads": 4, "kv_heads": 2, "dim": 64}
KINDS = {block.name: kind for kind, block in BLOCKS.items()}
_LETTERS = "abcdefg"
_K_HALVES = {"Q4_K": (0.0003, 0.002), "Q5_K": (0.00015, 0.002), "Q6_K": (0.00006,)}
"""The scales, and scales of minima, of random blocks whose weights are of about the same size as others'."""


def blocks_of(name: str, rows: int, width: int, seed: int) -> np.ndarray:
    """Random weights [rows, width] in blocks of type `name`, uint8 [rows, bytes]."""
    draw = np.random.default_rng(seed)
    if name not in _K_HALVES:
        values = (draw.normal(size=(rows, width)) * 0.08).astype(np.float32)
        return np.ascontiguousarray(gguf.quantize(values, GGMLQuantizationType[name])).view(np.uint8).reshape(rows, -1)
    block, halves = BLOCKS[KINDS[name]], np.array(_K_HALVES[name])
    raw = draw.integers(0, 256, (rows, width // block.width, block.num_bytes), dtype=np.uint8)
    scales = (halves * draw.uniform(0.5, 1.5, (*raw.shape[:2], len(halves)))).astype(np.float16).view(np.uint8)
    at = block.num_bytes - 2 if name == "Q6_K" else 0
    raw[..., at : at + 2 * len(halves)] = scales
    return raw.reshape(rows, -1)


def shapes(sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The tensors of a llama, by GGUF's names."""
    heads, kv_heads = sizes["heads"] * sizes["dim"], sizes["kv_heads"] * sizes["dim"]
    layer = {
        "attn_norm": (sizes["hidden"],),
        "attn_q": (heads, sizes["hidden"]),
        "attn_k": (kv_heads, sizes["hidden"]),
        "attn_v": (kv_heads, sizes["hidden"]),
        "attn_output": (sizes["hidden"], heads),
        "ffn_norm": (sizes["hidden"],),
        "ffn_gate": (sizes["inner"], sizes["hidden"]),
        "ffn_up": (sizes["inner"], sizes["hidden"]),
        "ffn_down": (sizes["hidden"], sizes["inner"]),
    }
    named = {f"blk.{n}.{kind}.weight": shape for n in range(sizes["layers"]) for kind, shape in layer.items()}
    table = (sizes["vocab"], sizes["hidden"])
    return {"token_embd.weight": table, "output_norm.weight": (sizes["hidden"],), "output.weight": table} | named


def write_gguf(
    path: Path,
    kind: str = "Q8_0",
    others: Mapping[str, str] | None = None,
    fields: Mapping[str, Any] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
    leave_out: tuple[str, ...] = (),
    is_random: bool = True,
    split_max_tensors: int = 0,
    **sizes: int,
) -> dict[str, torch.Tensor]:
    """Write a random llama with its matrices in `kind`, or as `others` says by a part of the name; the weights of the
    same model in full, by Hugging Face's names, are returned. Those that are not random are zero, and none returned."""
    sizes = SIZES | sizes
    writer, full = GGUFWriter(path, "llama", split_max_tensors=split_max_tensors), {}
    add_tokenizer(writer, sizes["vocab"])
    for key in fields or {}:
        writer.kv_data[0].pop(key, None)
    add_fields(writer, fields_of(sizes) | dict(fields or {}))
    for seed, (name, shape) in enumerate(shapes(sizes).items()):
        if name in leave_out:
            continue
        found = next((other for part, other in (others or {}).items() if part in name.split(".")), kind)
        type_ = KINDS["F32" if len(shape) == 1 else found]
        if not is_random:
            block = BLOCKS[type_]
            raw = np.zeros((*shape[:-1], shape[-1] // block.width * block.num_bytes), np.uint8)
            writer.add_tensor(name, raw, raw_shape=raw.shape, raw_dtype=GGMLQuantizationType(type_))
            continue
        if len(shape) == 1:
            raw = (1 + 0.1 * np.random.default_rng(seed).normal(size=(1, *shape))).astype(np.float32).view(np.uint8)
        else:
            raw = blocks_of(found, *shape, seed)
        flat = raw if len(shape) > 1 else raw.reshape(-1)
        writer.add_tensor(name, flat, raw_shape=flat.shape, raw_dtype=GGMLQuantizationType(type_))
        values = gguf.dequantize(raw, GGMLQuantizationType(type_)).astype(np.float32).reshape(shape)
        full[_name(name)] = torch.from_numpy(_in_order(name, values.copy(), sizes))
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return full


def write_in_full(directory: Path, config: str, tensors: dict[str, torch.Tensor]) -> Path:
    """The same model as a directory with safetensors in float32."""
    directory.mkdir()
    (directory / "config.json").write_text(config)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    return directory


def fields_of(sizes: Mapping[str, int]) -> dict[str, Any]:
    return {
        "llama.embedding_length": sizes["hidden"],
        "llama.feed_forward_length": sizes["inner"],
        "llama.block_count": sizes["layers"],
        "llama.context_length": 256,
        "llama.attention.head_count": sizes["heads"],
        "llama.attention.head_count_kv": sizes["kv_heads"],
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": sizes["dim"],
        "llama.rope.freq_base": 10000.0,
    }


def add_fields(writer: GGUFWriter, fields: Mapping[str, Any]) -> None:
    """Write `fields` in the types that their values have."""
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add |= {list: writer.add_array}
    for key, value in fields.items():
        add[type(value)](key, value)


def add_tokenizer(writer: GGUFWriter, vocab: int, num_words: int = 49) -> None:
    """Write a tokenizer: the 256 bytes, words that are merged of two others, and tokens that begin and end a text."""
    letters = [*map(chr, range(33, 127)), *map(chr, range(161, 173)), *map(chr, range(174, 256))]
    letters += [chr(256 + n) for n in range(256 - len(letters))]
    merges = list(_merges(min(num_words, vocab - 258)))
    tokens = letters + [merge.replace(" ", "") for merge in merges] + ["<s>", "</s>"]
    tokens += [f"<unused{n}>" for n in range(vocab - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (256 + len(merges)) + [3] * (vocab - 256 - len(merges)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(256 + len(merges))
    writer.add_eos_token_id(257 + len(merges))
    writer.add_chat_template("{% for message in messages %}{{ message.content }}{% endfor %}")


def _merges(count: int) -> Iterator[str]:
    """The words of each length in turn, each of the words before and a letter."""
    words = [*_LETTERS]
    while count > 0:
        pairs = [f"{word} {letter}" for word in words for letter in _LETTERS][:count]
        yield from pairs
        words, count = [pair.replace(" ", "") for pair in pairs], count - len(pairs)


_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


def _name(name: str) -> str:
    parts = name.split(".")
    return f"model.layers.{parts[1]}.{_NAMES[parts[2]]}.weight" if parts[0] == "blk" else f"{_NAMES[parts[0]]}.weight"


def _in_order(name: str, values: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
    """Rows of queries and keys as Hugging Face has them: row i of a head is ggml's 2 i, from the half on 2 i + 1."""
    if not name.endswith(("attn_q.weight", "attn_k.weight")):
        return values
    half = sizes["dim"] // 2
    order = [2 * row if row < half else 2 * (row - half) + 1 for row in range(sizes["dim"])]
    heads = values.reshape(-1, sizes["dim"], values.shape[1])
    return heads[:, order].reshape(values.shape)
