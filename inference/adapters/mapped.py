"""An adapter as the decoder wants it, in one file beside the original, mapped into memory instead of read.

The first load of an adapter proves, converts and writes it; later ones map the file and pass over it once. What
the file was made from is stamped on it, so a change of the original, of the base or of this format makes it anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import mmap
import os
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from inference.adapters.examination import CONFIG, WEIGHTS
from inference.adapters.file import Base, HostAdapter, inside, read_adapter
from inference.adapters.weights import AdapterWeights, TargetWeights

FORMAT: Final = 4
"""To be raised by whoever changes the file, or what `read_adapter` makes of an adapter."""
_ALIGNMENT: Final = 64
_WIDE: Final = ("scale", "bias")
"""Sides that are float32 whatever the adapter's type."""

log = logging.getLogger(__name__)


def load_mapped(directory: Path, digest: str, base: Base, max_rank: int) -> HostAdapter:
    """The adapter in `directory`, mapped if that can be, else read; raises as `read_adapter` does."""
    path, stamp = directory / _name(base), _stamp(directory, digest, base)
    mapped = _map(path, digest, base.dtype, stamp)
    if mapped is not None and mapped.rank <= max_rank:
        return mapped
    adapter = read_adapter(directory, digest, base, max_rank)
    try:
        _write(path, adapter, stamp)
    except OSError as error:
        log.warning("not mapped adapter=%s error=%s", digest[:12], error)
        return adapter
    return _map(path, digest, base.dtype, stamp) or adapter


def _name(base: Base) -> str:
    dtype = str(base.dtype).removeprefix("torch.")
    return f"mapped.{dtype}.packed" if base.is_packed else f"mapped.{dtype}"


def _stamp(directory: Path, digest: str, base: Base) -> str:
    """Everything that the converted weights follow from; the original's files count by size and time."""
    stats = [inside(directory, name).stat() for name in (CONFIG, WEIGHTS)]
    files = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
    made_from = (FORMAT, digest, base.dtype, base.architecture, base.identity, base.is_nf4, base.is_packed, files)
    return hashlib.sha256(repr(made_from).encode()).hexdigest()


def _map(path: Path, digest: str, dtype: torch.dtype, stamp: str) -> HostAdapter | None:
    """The adapter in the file at `path`; None when there is none, or a damaged one, or not the one of `stamp`."""
    try:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        (length,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8 : 8 + length])
        if header["stamp"] != stamp or header["crc"] != zlib.crc32(memoryview(content)[8 + length :]):
            return None
        weights = {target: _weights(content, 8 + length, sides, dtype) for target, sides in header["targets"].items()}
    except (OSError, ValueError, LookupError, TypeError, struct.error):
        return None
    return HostAdapter(digest, weights, header["rank"], sum(pair.num_bytes for pair in weights.values()))


def _weights(content: mmap.mmap, start: int, sides: dict[str, Any], dtype: torch.dtype) -> TargetWeights:
    def view(side: str) -> Tensor:
        offset, shape, strides = sides[side]
        kind, count = torch.float32 if side in _WIDE else dtype, math.prod(shape)
        if not count:
            return torch.empty(shape, dtype=kind)
        return torch.frombuffer(content, dtype=kind, count=count, offset=start + offset).as_strided(shape, strides)

    parts: dict[str, Any] = {side: view(side) for side in sides}
    return TargetWeights(**parts)


def _write(path: Path, adapter: HostAdapter, stamp: str) -> None:
    """Write the file in one step. It needs no flush to the disk: the checksum tells after a crash."""
    targets, data = _lay_out(adapter.weights)
    fields = {"stamp": stamp, "rank": adapter.rank, "crc": zlib.crc32(data), "targets": targets}
    header = json.dumps(fields, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % _ALIGNMENT)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(struct.pack("<Q", len(header)) + header)
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _lay_out(weights: AdapterWeights) -> tuple[dict[str, dict[str, Any]], bytearray]:
    """Where each tensor begins, at multiples of `_ALIGNMENT`, its shape and strides; and all of them in a row."""
    targets: dict[str, dict[str, Any]] = {}
    data = bytearray()
    for target, pair in weights.items():
        targets[target] = {}
        for side, tensor in pair.parts.items():
            targets[target][side] = (len(data), tuple(tensor.shape), tensor.stride())
            data += _bytes(tensor)
            data += bytes(-len(data) % _ALIGNMENT)
    return targets, data


def _bytes(tensor: Tensor) -> bytes:
    """The memory of a tensor that has no gaps."""
    assert tensor.untyped_storage().nbytes() == tensor.nbytes, "a tensor that is written is all of its memory"
    content: bytes = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().tobytes()
    return content
