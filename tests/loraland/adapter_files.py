"""Small LoRA adapters for SmolLM2-135M-Instruct, written byte by byte: the site's tests need no torch."""

from __future__ import annotations

import array
import json
import random
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
}
"""What its config.json says of its shapes."""

IN_OUT = {
    "q_proj": (576, 576),
    "k_proj": (576, 192),
    "v_proj": (576, 192),
    "o_proj": (576, 576),
    "gate_proj": (576, 1536),
    "up_proj": (576, 1536),
    "down_proj": (1536, 576),
}
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]
"""Type, shape and bytes of each tensor by name."""


def lora_tensors(
    rank: int = 2,
    layers: Sequence[int] = (0,),
    targets: Sequence[str] = ("q_proj", "v_proj"),
    dtype: str = "F32",
    seed: int = 0,
) -> Tensors:
    """The A and B of every target in every layer, random; two seeds give two digests."""
    chance = random.Random(seed)
    tensors: Tensors = {}
    for layer in layers:
        for target in targets:
            block = "self_attn" if target in ATTENTION else "mlp"
            inputs, outputs = IN_OUT[target]
            for side, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
                name = f"base_model.model.model.layers.{layer}.{block}.{target}.lora_{side}.weight"
                values = [chance.uniform(-0.1, 0.1) for _ in range(shape[0] * shape[1])]
                tensors[name] = (dtype, shape, number_bytes(values, dtype))
    return tensors


def number_bytes(values: Sequence[float], dtype: str) -> bytes:
    """`values` as little-endian F32, F16, F64 or BF16 (an F32 without its lower half)."""
    if dtype == "F16":
        return struct.pack(f"<{len(values)}e", *values)
    wide = array.array("d" if dtype == "F64" else "f", values).tobytes()
    if dtype != "BF16":
        return wide
    half = bytearray(len(values) * 2)
    half[0::2], half[1::2] = wide[2::4], wide[3::4]
    return bytes(half)


def safetensors_bytes(tensors: Tensors, header: dict[str, Any] | None = None) -> bytes:
    """A safetensors file of `tensors`; entries of `header` replace or add to the true ones."""
    entries: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(data)]}
        end += len(data)
    raw = json.dumps(entries | (header or {})).encode()
    return struct.pack("<Q", len(raw)) + raw + b"".join(data for _, _, data in tensors.values())


def lora_config(**changes: Any) -> dict[str, Any]:
    """An adapter_config.json as PEFT saves it, for layer 0 only; a change to None takes the key out."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "r": 2,
        "lora_alpha": 4,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj", "v_proj"],
        "layers_to_transform": [0],
        "bias": "none",
        "inference_mode": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": False,
        "use_rslora": False,
    }
    return {key: value for key, value in (config | changes).items() if value is not None}


def write_adapter(
    directory: Path,
    *,
    config: dict[str, Any] | bytes | None = None,
    tensors: Tensors | bytes | None = None,
    seed: int = 0,
    card: str = "",
) -> Path:
    """Write an adapter into `directory` and return it: sound, but for what `config` and `tensors` replace."""
    directory.mkdir(parents=True, exist_ok=True)
    config = lora_config() if config is None else config
    tensors = lora_tensors(seed=seed) if tensors is None else tensors
    raw = config if isinstance(config, bytes) else json.dumps(config).encode()
    (directory / "adapter_config.json").write_bytes(raw)
    data = tensors if isinstance(tensors, bytes) else safetensors_bytes(tensors)
    (directory / "adapter_model.safetensors").write_bytes(data)
    if card:
        (directory / "card.toml").write_text(card, encoding="utf-8")
    return directory
