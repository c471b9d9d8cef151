"""Gates of blends for SmolLM2-135M-Instruct, written byte by byte: the site's tests need no torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from inference.adapters.gate_head import FORMAT, GATE_FILE
from tests.loraland.adapter_files import IN_OUT, SMOLLM2, Tensors, number_bytes, safetensors_bytes

LAYERS = int(str(SMOLLM2["num_hidden_layers"]))
HIDDEN = int(str(SMOLLM2["hidden_size"]))


def flow_gate(parts: Sequence[str], *, hidden: int = HIDDEN, layers: int = LAYERS, seed: int = 0) -> Tensors:
    """A gate of LoRA-Flow for `parts`, random; two seeds give two digests."""
    chance = random.Random(seed)
    tensors: Tensors = {}
    for layer in range(layers):
        for name, shape in (("weight", (len(parts), hidden)), ("bias", (len(parts),))):
            size = shape[0] * (shape[1] if len(shape) > 1 else 1)
            values = [chance.uniform(-0.1, 0.1) for _ in range(size)]
            tensors[f"layers.{layer}.{name}"] = ("F32", shape, number_bytes(values, "F32"))
    return tensors


def ramole_gate(targets: Sequence[str] = ("q_proj", "v_proj"), *, g: int = 2, layers: int = LAYERS) -> Tensors:
    """A gate of RAMoLE for adapters on `targets`, all of one number."""
    tensors: Tensors = {}
    for layer in range(layers):
        for target in targets:
            inputs, outputs = IN_OUT[target]
            for name, shape in (("A_r", (g, inputs)), ("B_r", (outputs, g))):
                numbers = number_bytes([0.01] * (shape[0] * shape[1]), "F32")
                tensors[f"layers.{layer}.{target}.{name}"] = ("F32", shape, numbers)
    return tensors


def gate_bytes(tensors: Tensors, *, kind: str = "flow", parts: Sequence[str] = (), **more: str) -> bytes:
    """The file of a gate; `more` adds to its metadata or replaces some of it."""
    told = {"format": FORMAT, "kind": kind, "base": "SmolLM2-135M-Instruct", "parts": ",".join(parts)}
    return safetensors_bytes(tensors, {"__metadata__": told | {"temperature": "1.1", "top_k": "0"} | more})


def write_gate(directory: Path, data: bytes) -> Path:
    """A folder with the gate's file, as a quarantine is filled from one."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / GATE_FILE).write_bytes(data)
    return directory / GATE_FILE
