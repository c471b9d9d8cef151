"""The gate that LoRA-Flow's own code saves, a pickle of torch, as a gate of ours. Tensors are read, and no code runs.

The file says neither its base nor of which adapters it is, nor their order: whoever converts it knows.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from inference.adapters.file import AdapterRefused
from inference.adapters.gate_file import gate_digest, read_gate, write_gate
from inference.adapters.stored_gate import StoredGate

_NAMES: Final = re.compile(r"encoder\.layers\.(0|[1-9]\d{0,3})\.(lora_fusion_gate\.weight|weight_bias)")


class NotFlow(ValueError):
    """A file that is no such gate; the message is a sentence."""


def convert_flow(path: Path, parts: tuple[str, ...], temperature: float, home: Path) -> Path:
    """Write the gate in the pickle at `path` for the adapters `parts`, by digest and in their order, into a folder of
    its digest in `home`; the file. Raises `NotFlow`."""
    try:
        gate = _read(path, parts, temperature)
        made = home / gate_digest(gate)
        made.mkdir(parents=True, exist_ok=True)
        written = write_gate(made, gate)
        read_gate(written)
    except AdapterRefused as error:
        raise NotFlow(str(error)) from error
    except OSError as error:
        raise NotFlow(f"The gate could not be written: {error}; see that there is room.") from error
    return written


def _read(path: Path, parts: tuple[str, ...], temperature: float) -> StoredGate:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises of many kinds for a file that is not its own
        raise NotFlow(f"{path} cannot be read as tensors alone: {str(error).partition(chr(10))[0][:200]}") from error
    if not isinstance(found, dict):
        raise NotFlow(f"{path} holds no named tensors; give the gate that LoRA-Flow's training saved.")
    tensors = dict(_renamed(path, name, tensor) for name, tensor in found.items())
    counts = {len(tensor) for tensor in tensors.values()}
    if counts != {len(parts)}:
        told = " and ".join(map(str, sorted(counts))) or "no"
        raise NotFlow(
            f"{path} weighs {told} adapters, and {len(parts)} were named; name each in the order of its training."
        )
    return StoredGate("flow", tensors, "", parts, temperature=temperature)


def _renamed(path: Path, name: object, tensor: object) -> tuple[str, Tensor]:
    known = _NAMES.fullmatch(name) if isinstance(name, str) else None
    if known is None or not isinstance(tensor, Tensor):
        raise NotFlow(f"{path} holds {str(name)[:80]!r}, which is no tensor of LoRA-Flow's gate.")
    wide = tensor.detach().to(torch.float32).contiguous()
    return (
        (f"layers.{known[1]}.bias", wide.flatten().clone())
        if known[2] == "weight_bias"
        else (f"layers.{known[1]}.weight", wide.clone())
    )
