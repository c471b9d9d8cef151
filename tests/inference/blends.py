"""Blends as a slow program computes them: whole matrices, one part after the other, in float32; and gates to try."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from inference.adapters.identity import blended_digest
from inference.adapters.stored_gate import StoredGate
from inference.wire.protocol import Component, GateRef

LINEARS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp"),
}
GATE = "9" * 64
"""What stored gates are called in tests."""


def ref_of(digests: list[str], gate: GateRef) -> tuple[str, tuple[Component, ...], GateRef]:
    """What a cache is asked for the blend of `digests` by `gate`."""
    digest = blended_digest(digests, gate.kind, gate.top_k, gate.temperature, gate.digest)
    return digest, tuple(map(Component, digests)), gate


def update_of(adapter: Path, layer: int, target: str) -> Tensor | None:
    """s B A [out, in] of the adapter in a folder, None where it has none."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = f"base_model.model.model.layers.{layer}.{LINEARS[target]}.{target}.lora_{{}}.weight"
    if name.format("A") not in tensors:
        return None
    return tensors[name.format("B")] @ tensors[name.format("A")] * (config["lora_alpha"] / config["r"])


def flow_gate(parts: list[str], num_layers: int, hidden: int, seed: int = 0, size: float = 0.3) -> StoredGate:
    """A random gate of LoRA-Flow."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(num_layers):
        tensors[f"layers.{layer}.weight"] = size * torch.randn(len(parts), hidden, generator=random)
        tensors[f"layers.{layer}.bias"] = size * torch.randn(len(parts), generator=random)
    return StoredGate("flow", tensors, parts=tuple(parts), temperature=1.1)


def ramole_gate(shapes: dict[str, tuple[int, int]], num_layers: int, g: int = 4, seed: int = 0) -> StoredGate:
    """A random gate of RAMoLE for targets of `shapes`, in and out."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(num_layers):
        for target, (into, out) in shapes.items():
            tensors[f"layers.{layer}.{target}.A_r"] = 0.1 * torch.randn(g, into, generator=random)
            tensors[f"layers.{layer}.{target}.B_r"] = 0.03 * torch.randn(out, g, generator=random)
    return StoredGate("ramole", tensors)


Weigh = Callable[[int, str, Tensor, Tensor, list[Tensor]], Tensor]
"""Coefficients [parts] of a row by layer, target, the row [in], the residual stream [hidden] and the parts' updates."""


def by_arrow(top_k: int, temperature: float) -> Weigh:
    known: dict[tuple[int, str], Tensor] = {}

    def weigh(layer: int, target: str, row: Tensor, residual: Tensor, updates: list[Tensor]) -> Tensor:
        if (layer, target) not in known:
            known[layer, target] = torch.stack([_first_direction(update) for update in updates])
        scores = (known[layer, target] @ row.double()).abs().float()
        chosen = sorted(range(len(scores)), key=lambda part: -float(scores[part]))[: top_k or len(scores)]
        kept = torch.tensor([score if part in chosen else -torch.inf for part, score in enumerate(scores.tolist())])
        return torch.softmax(kept / temperature, dim=0)

    return weigh


def _first_direction(update: Tensor) -> Tensor:
    if not update.any():
        return torch.zeros(update.shape[1], dtype=torch.float64)
    return torch.linalg.svd(update.double(), full_matrices=False).Vh[0]


def by_flow(gate: StoredGate) -> Weigh:
    def weigh(layer: int, target: str, row: Tensor, residual: Tensor, updates: list[Tensor]) -> Tensor:
        scores = gate.tensors[f"layers.{layer}.weight"] @ residual / gate.temperature
        return torch.softmax(scores, dim=0) + gate.tensors[f"layers.{layer}.bias"]

    return weigh


def by_ramole(gate: StoredGate) -> Weigh:
    def weigh(layer: int, target: str, row: Tensor, residual: Tensor, updates: list[Tensor]) -> Tensor:
        query = gate.tensors[f"layers.{layer}.{target}.A_r"] @ row
        outward = gate.tensors[f"layers.{layer}.{target}.B_r"]
        scores = torch.stack([(outward.T @ (update @ row)) @ query for update in updates])
        return torch.softmax(scores / len(query) ** 0.5, dim=0)

    return weigh


def blended(model: Any, adapters: list[Path], weigh: Weigh) -> Any:
    """`model` of transformers, whose linears add up what `adapters` do to each row times what `weigh` says."""
    for index, layer in enumerate(model.model.layers):
        seen: dict[str, Tensor] = {}
        layer.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.update(residual=inputs[0]))
        for target, home in LINEARS.items():
            updates = [update_of(adapter, index, target) for adapter in adapters]
            found = [update for update in updates if update is not None]
            if found:
                whole = [torch.zeros_like(found[0]) if update is None else update for update in updates]
                linear = getattr(getattr(layer, home), target)
                linear.register_forward_hook(_adding(index, target, whole, weigh, seen))
    return model


def _adding(layer: int, target: str, updates: list[Tensor], weigh: Weigh, seen: dict[str, Tensor]) -> Any:
    def add(module: Any, inputs: tuple[Tensor], out: Tensor) -> Tensor:
        rows, residual = inputs[0][0], seen["residual"][0]
        added = []
        for row, stream in zip(rows, residual, strict=True):
            coefficients = weigh(layer, target, row, stream, updates)
            added.append(sum(c * (update @ row) for c, update in zip(coefficients, updates, strict=True)))
        return out + torch.stack(added)

    return add
