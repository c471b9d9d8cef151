"""``gate.safetensors``, a trained gate in a file of ours: read strictly, or refused; written; and its digest.

It has, for each layer i from 0 on, of LoRA-Flow ``layers.{i}.weight`` [parts, hidden] and ``layers.{i}.bias`` [parts],
of RAMoLE ``layers.{i}.{target}.A_r`` [g, in] and ``layers.{i}.{target}.B_r`` [out, g], float32 all; and as metadata
``format`` (loraland-gate-1), ``kind``, ``base`` (the model's name, which is told and not compared), ``parts`` (digests
in order with commas between them; of RAMoLE it may be empty), ``temperature`` and ``top_k``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, get_args

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from inference.adapters.file import AdapterRefused
from inference.adapters.gate import MAX_GATED
from inference.adapters.identity import HeaderError, read_header
from inference.adapters.stored_gate import StoredGate
from inference.model.architecture import TARGETS
from inference.reading import reading, shown
from inference.wire.protocol import GateKind

GATE_FILE: Final = "gate.safetensors"
_FORMAT: Final = "loraland-gate-1"
_NAMES: Final = {
    "flow": re.compile(r"layers\.(0|[1-9]\d{0,3})\.(weight|bias)"),
    "ramole": re.compile(rf"layers\.(0|[1-9]\d{{0,3}})\.({'|'.join(TARGETS)})\.([AB])_r"),
}
_DIGESTS: Final = re.compile(r"([0-9a-f]{64}(,[0-9a-f]{64})*)?")
_NUMBER: Final = re.compile(r"\d{1,4}(\.\d{1,9})?")


def gate_digest(gate: StoredGate) -> str:
    """SHA-256 in hex over a gate's kind, parts, settings and tensors, in order of name."""
    state = hashlib.sha256(b"loraland gate 1\0")
    for word in (gate.kind, str(gate.top_k), float(gate.temperature).hex(), *gate.parts):
        state.update(f"{word}\0".encode())
    for name, tensor in sorted(gate.tensors.items()):
        state.update(f"\0{name}\0{tuple(tensor.shape)}\0".encode())
        state.update(tensor.contiguous().numpy().tobytes())
    return state.hexdigest()


def write_gate(folder: Path, gate: StoredGate) -> Path:
    """Write `gate` into `folder`; the file. Raises OSError."""
    metadata = {"format": _FORMAT, "kind": gate.kind, "base": gate.base, "parts": ",".join(gate.parts)}
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
            header = read_header(path)
        except HeaderError as error:
            raise AdapterRefused([str(error)]) from error
        with safe_open(path, framework="pt") as content:
            gate = _with_settings(content.metadata() or {})
            if strangers := [name for name, info in header.items() if info.dtype != "F32"]:
                raise AdapterRefused([f"a gate's tensors are float32, and {shown(strangers[0])} is not"])
            gate.tensors.update({name: content.get_tensor(name) for name in header})
    if reasons := _wrong(gate, hidden):
        raise AdapterRefused(reasons)
    return gate


def _with_settings(metadata: dict[str, Any]) -> StoredGate:
    """A gate without its tensors yet."""
    kind, parts = metadata.get("kind", ""), metadata.get("parts", "")
    temperature, top_k = metadata.get("temperature", "1"), metadata.get("top_k", "0")
    trained = [each for each in get_args(GateKind) if each in _NAMES]
    if metadata.get("format") != _FORMAT:
        raise AdapterRefused([f"its format is {shown(metadata.get('format'))}, and that of a gate {_FORMAT}"])
    if kind not in trained:
        raise AdapterRefused([f"its kind is {shown(kind)}; one of {' and '.join(trained)} is read"])
    if not _DIGESTS.fullmatch(parts):
        raise AdapterRefused(
            [f"its parts are {shown(parts)}; digests of 64 digits are meant, with commas between them"]
        )
    if not (_NUMBER.fullmatch(temperature) and float(temperature) and re.fullmatch(r"\d{1,2}", top_k)):
        raise AdapterRefused(
            [f"its temperature is {shown(temperature)} and its top_k {shown(top_k)}; numbers are meant"]
        )
    digests = tuple(parts.split(",")) if parts else ()
    return StoredGate(kind, {}, metadata.get("base", ""), digests, int(top_k), float(temperature))


def _wrong(gate: StoredGate, hidden: int) -> list[str]:
    """Everything that is wrong with the tensors by themselves."""
    found = {name: _NAMES[gate.kind].fullmatch(name) for name in gate.tensors}
    if strangers := [shown(name) for name, known in found.items() if known is None]:
        return [f"{strangers[0]} is no tensor of a gate of the kind {gate.kind}"]
    layers = {int(known[1]) for known in found.values() if known}
    reasons = [sentence for name, tensor in gate.tensors.items() for sentence in _faults(name, tensor, hidden)]
    if not layers or layers != set(range(len(layers))):
        reasons.append("a gate has tensors for each layer from 0 on; some are missing")
    return reasons


def _faults(name: str, tensor: Tensor, hidden: int) -> Iterable[str]:
    shape, own = tuple(tensor.shape), name.rpartition(".")[2]
    if len(shape) != (1 if own == "bias" else 2):
        yield f"{name} has the shape {list(shape)}; a bias is a vector and all else a matrix"
    elif not 0 < (count := shape[1] if own == "B_r" else shape[0]) <= MAX_GATED:
        yield f"{name} is of {count} parts or keys; a gate has from 1 to {MAX_GATED}"
    elif own == "weight" and hidden and shape[1] != hidden:
        yield f"{name} is for {shape[1]} hidden features, and the base has {hidden}"
    elif not tensor.isfinite().all():
        yield f"{name} holds NaN or infinity"
