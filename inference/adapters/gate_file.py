"""``gate.safetensors``, a trained gate in a file of ours: read strictly, or refused; written; and its digest.

It has, for each layer i from 0 on, of LoRA-Flow ``layers.{i}.weight`` [parts, hidden] and ``layers.{i}.bias`` [parts],
of RAMoLE ``layers.{i}.{target}.A_r`` [g, in] and ``layers.{i}.{target}.B_r`` [out, g], float32 all; and as metadata
``format`` (loraland-gate-1), ``kind``, ``base`` (the model's name, which is told and not compared), ``parts`` (digests
in order with commas between them; of RAMoLE it may be empty), ``temperature`` and ``top_k``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from inference.adapters.file import AdapterRefused
from inference.adapters.gate_head import FORMAT, GATE_FILE, GateRefused, begun_digest, label_of, read_head
from inference.adapters.stored_gate import StoredGate
from inference.reading import reading


def gate_digest(gate: StoredGate) -> str:
    """SHA-256 in hex over a gate's kind, parts, settings and tensors, in order of name, as `gate_digest_of` a file."""
    state = begun_digest(gate.kind, gate.top_k, gate.temperature, gate.parts)
    for name, tensor in sorted(gate.tensors.items()):
        state.update(label_of(name, tuple(tensor.shape)))
        state.update(tensor.contiguous().numpy().tobytes())
    return state.hexdigest()


def write_gate(folder: Path, gate: StoredGate) -> Path:
    """Write `gate` into `folder`; the file. Raises OSError."""
    metadata = {"format": FORMAT, "kind": gate.kind, "base": gate.base, "parts": ",".join(gate.parts)}
    metadata |= {"temperature": f"{gate.temperature:.9f}", "top_k": str(gate.top_k)}
    tensors = {name: tensor.to(torch.float32).contiguous() for name, tensor in gate.tensors.items()}
    save_file(tensors, folder / GATE_FILE, metadata)
    return folder / GATE_FILE


def read_gate(path: Path, hidden: int = 0) -> StoredGate:
    """The gate in the file at `path`, for a base of `hidden` features if that is known.

    Raises `AdapterRefused` with every reason, and OSError.
    """
    with reading(path.name, lambda reason: AdapterRefused([reason])):
        try:
            head, header = read_head(path)
        except GateRefused as error:
            raise AdapterRefused(error.reasons) from error
        with safe_open(path, framework="pt") as content:
            tensors = {name: content.get_tensor(name) for name in header}
    gate = StoredGate(head.kind, tensors, head.base, head.parts, head.top_k, head.temperature)
    if reasons := [*head.faults(hidden), *_not_finite(gate)]:
        raise AdapterRefused(reasons)
    return gate


def _not_finite(gate: StoredGate) -> list[str]:
    return [f"{name} holds NaN or infinity" for name, tensor in gate.tensors.items() if not tensor.isfinite().all()]
