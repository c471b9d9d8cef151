"""What a trained gate's file says of itself: its kind, parts, settings and shapes, and its digest. No torch.

The file is `inference.adapters.gate_file`'s. What is read here is refused at the site's door as at the worker's.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args

from inference.adapters.identity import HeaderError, TensorInfo, read_header
from inference.adapters.storable import is_storable
from inference.model.architecture import TARGETS
from inference.reading import shown
from inference.wire.protocol import GateKind, GateRef

GATE_FILE: Final = "gate.safetensors"
FORMAT: Final = "loraland-gate-1"
MAX_GATED: Final = 32
"""The most parts that a gate weighs, and the most columns of its projection."""
MAX_BASE_CHARS: Final = 200
_NAMES: Final = {
    "flow": re.compile(r"layers\.(0|[1-9]\d{0,3})\.(weight|bias)", re.ASCII),
    "ramole": re.compile(rf"layers\.(0|[1-9]\d{{0,3}})\.({'|'.join(TARGETS)})\.([AB])_r", re.ASCII),
}
_DIGESTS: Final = re.compile(r"([0-9a-f]{64}(,[0-9a-f]{64})*)?")
_NUMBER: Final = re.compile(r"\d{1,4}(\.\d{1,9})?", re.ASCII)
_CHUNK_BYTES: Final = 1024 * 1024


class GateRefused(ValueError):
    """A file that is no gate; `reasons` are sentences."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(" ".join(reasons))
        self.reasons = reasons


@dataclass(frozen=True)
class GateHead:
    """A trained gate without its numbers. `parts` are the digests that it was trained for, in order; of RAMoLE, which
    weighs any, it may be empty. `shapes` go by the names of the file."""

    kind: GateKind
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    base: str = ""
    parts: tuple[str, ...] = ()
    top_k: int = 0
    temperature: float = 1.0

    @property
    def num_layers(self) -> int:
        return 1 + max(int(name.split(".")[1]) for name in self.shapes)

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    def mistakes(self, digests: list[str], ref: GateRef) -> Iterable[str]:
        """Why it cannot weigh the parts `digests` as `ref` says, in sentences."""
        if ref.kind != self.kind:
            yield f"the gate is of the kind {self.kind}, and {ref.kind} was asked for"
        if (ref.top_k, ref.temperature) != (0, 1.0):
            yield f"the gate's own settings hold; leave out top_k ({ref.top_k}) and temperature ({ref.temperature:g})"
        if self.parts and list(self.parts) != digests:
            named = ", ".join(digest[:12] for digest in self.parts)
            yield f"the gate is made for {named}, in this order, and not for {', '.join(one[:12] for one in digests)}"

    def misfits(self, target: str, count: int, shape: tuple[int, int, int]) -> Iterable[str]:
        """Why it cannot weigh what `count` parts do to `target` of `shape`: layers, features in and out."""
        layers, into, out = shape
        if self.num_layers != layers:
            yield f"the gate has {self.num_layers} layers, and the base {layers}"
            return
        g = self._width(target)
        if not g:
            missing = "weight" if self.kind == "flow" else f"A_r and B_r for {target}, which a part changes"
            yield f"the gate has no {missing}"
            return
        wanted: dict[str, tuple[int, ...]] = {f"{target}.A_r": (g, into), f"{target}.B_r": (out, g)}
        if self.kind == "flow":
            wanted = {"weight": (count, g), "bias": (count,)}
        for name, size in wanted.items():
            if found := [one for layer in range(layers) if (one := self._shape(layer, name)) != size]:
                yield f"the gate's {name} is {list(found[0])}, and {list(size)} in another place or in the base"

    def faults(self, hidden: int = 0) -> Iterable[str]:
        """What is wrong with its tensors by themselves, for a base of `hidden` features if that is known."""
        found = {name: _NAMES[self.kind].fullmatch(name) for name in self.shapes}
        if strangers := [shown(name) for name, known in found.items() if known is None]:
            yield f"{strangers[0]} is no tensor of a gate of the kind {self.kind}"
            return
        layers = {int(known[1]) for known in found.values() if known}
        for name, shape in self.shapes.items():
            yield from _faults(name, shape, hidden)
        if not layers or layers != set(range(len(layers))):
            yield "a gate has tensors for each layer from 0 on; some are missing"

    def _width(self, target: str) -> int:
        """Of RAMoLE the keys of `target`, of LoRA-Flow the residual stream, by the first layer; 0 where none are."""
        sizes = self._shape(0, "weight")[1:] if self.kind == "flow" else self._shape(0, f"{target}.A_r")[:1]
        return sizes[0] if sizes else 0

    def _shape(self, layer: int, name: str) -> tuple[int, ...]:
        return self.shapes.get(f"layers.{layer}.{name}", ())


def read_head(path: Path) -> tuple[GateHead, dict[str, TensorInfo]]:
    """What the file at `path` says, and its header. Raises `GateRefused` with every reason, and OSError."""
    try:
        header = read_header(path)
    except HeaderError as error:
        raise GateRefused([str(error)]) from error
    if strangers := [name for name, info in header.items() if info.dtype != "F32"]:
        raise GateRefused([f"a gate's tensors are float32, and {shown(strangers[0])} is not"])
    return _with_settings(_metadata(path), {name: info.shape for name, info in header.items()}), header


def gate_digest_of(path: Path, head: GateHead, header: Mapping[str, TensorInfo]) -> str:
    """SHA-256 in hex over the kind, parts, settings and tensors, in order of name, of the gate at `path`."""
    state = begun_digest(head.kind, head.top_k, head.temperature, head.parts)
    with path.open("rb") as file:
        start = 8 + struct.unpack("<Q", file.read(8))[0]
        for name, info in sorted(header.items()):
            state.update(label_of(name, info.shape))
            file.seek(start + info.begin)
            for left in range(info.end - info.begin, 0, -_CHUNK_BYTES):
                state.update(file.read(min(left, _CHUNK_BYTES)))
    return state.hexdigest()


def begun_digest(kind: str, top_k: int, temperature: float, parts: Iterable[str]) -> hashlib._Hash:
    """The state of a gate's digest before its tensors, each of which is its `label_of` and its numbers."""
    state = hashlib.sha256(b"loraland gate 1\0")
    for word in (kind, str(top_k), float(temperature).hex(), *parts):
        state.update(f"{word}\0".encode())
    return state


def label_of(name: str, shape: tuple[int, ...]) -> bytes:
    return f"\0{name}\0{shape}\0".encode()


def _metadata(path: Path) -> dict[str, str]:
    """What stands beside the tensors in a header that was read before, so that it is sound."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        found: dict[str, str] = json.loads(file.read(length)).get("__metadata__", {})
    return found


def _with_settings(metadata: Mapping[str, str], shapes: dict[str, tuple[int, ...]]) -> GateHead:
    kind, parts = metadata.get("kind", ""), metadata.get("parts", "")
    temperature, top_k = metadata.get("temperature", "1"), metadata.get("top_k", "0")
    trained = [each for each in get_args(GateKind) if each in _NAMES]
    if metadata.get("format") != FORMAT:
        raise GateRefused([f"its format is {shown(metadata.get('format'))}, and that of a gate {FORMAT}"])
    if kind not in trained:
        raise GateRefused([f"its kind is {shown(kind)}; one of {' and '.join(trained)} is read"])
    if not _DIGESTS.fullmatch(parts):
        raise GateRefused([f"its parts are {shown(parts)}; digests of 64 digits are meant, with commas between them"])
    if not (_NUMBER.fullmatch(temperature) and float(temperature) and re.fullmatch(r"[0-9]{1,2}", top_k)):
        raise GateRefused([f"its temperature is {shown(temperature)} and its top_k {shown(top_k)}; numbers are meant"])
    if len(base := metadata.get("base", "")) > MAX_BASE_CHARS or not is_storable(base):
        raise GateRefused([f"its base is {shown(base)}; a name of at most {MAX_BASE_CHARS} characters is meant"])
    digests = tuple(parts.split(",")) if parts else ()
    known: GateKind = next(each for each in get_args(GateKind) if each == kind)
    return GateHead(known, shapes, base, digests, int(top_k), float(temperature))


def _faults(name: str, shape: tuple[int, ...], hidden: int) -> Iterable[str]:
    own = name.rpartition(".")[2]
    if len(shape) != (1 if own == "bias" else 2):
        yield f"{name} has the shape {list(shape)}; a bias is a vector and all else a matrix"
    elif not 0 < (count := shape[1] if own == "B_r" else shape[0]) <= MAX_GATED:
        yield f"{name} is of {count} parts or keys; a gate has from 1 to {MAX_GATED}"
    elif own == "weight" and hidden and shape[1] != hidden:
        yield f"{name} is for {shape[1]} hidden features, and the base has {hidden}"
