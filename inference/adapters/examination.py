"""The examination of an adapter's two files: what they say, or every reason to refuse them, in sentences.

No torch is needed, so the site asks before it keeps an upload and the worker before it reads a number to compute with.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from inference.adapters import config_file
from inference.adapters.binding import bind
from inference.adapters.config import LoraConfig, check_config
from inference.adapters.findings import Findings, Parts
from inference.adapters.finite import non_finite
from inference.adapters.identity import HeaderError, TensorInfo, read_header
from inference.adapters.indices import pointing_beyond
from inference.adapters.methods.vblora import VbLora
from inference.adapters.patterns import PatternRefused
from inference.model.architecture import Architecture
from inference.reading import reading

CONFIG: Final = config_file.NAME
WEIGHTS: Final = "adapter_model.safetensors"

_FOREIGN: Final = (
    (b"PK\x03\x04", "a PyTorch pickle (a zip archive)"),
    (b"\x80", "a Python pickle"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
)


@dataclass(frozen=True)
class Examination:
    """What the files say. With any `reasons` the rest may be empty; `fits` is whether none of them is the base's."""

    reasons: list[str]
    fits: bool = True
    config: dict[str, Any] = field(default_factory=dict)
    meaning: LoraConfig | None = None
    modules: dict[str, Parts] = field(default_factory=dict)
    """By their names in checkpoints."""
    tables: Parts = field(default_factory=dict)
    """Whole tables beside them, which must be the base's own."""
    rows: Parts = field(default_factory=dict)
    """Trained rows of the base's tables."""
    shared: Parts = field(default_factory=dict)
    """Tensors of all modules, of a method that has such."""
    biases: Parts = field(default_factory=dict)
    """Biases in place of the base's."""
    architecture: Architecture | None = None
    """The base, in the names that the adapter has for it."""
    remarks: tuple[str, ...] = ()
    """What its owner should know, and what keeps nothing from serving it."""


class _Unreadable(ValueError):
    pass


def examine_files(config: Path, weights: Path, architecture: Architecture | None, max_rank: int) -> Examination:
    """Examine the adapter in two files, for a base of `architecture` where that is known.

    Raises OSError and MemoryError, which tell of this machine.
    """
    try:
        with reading("The adapter", _Unreadable):
            return _examine(config, weights, architecture, max_rank)
    except _Unreadable as error:
        return Examination([str(error)])


def _examine(config_path: Path, weights: Path, architecture: Architecture | None, max_rank: int) -> Examination:
    config, meaning, reasons = _read_config(config_path, max_rank)
    try:
        header = _read_header(weights)
    except HeaderError as error:
        return Examination([*reasons, f"{WEIGHTS} is {error}."])
    try:
        binding, values = bind(header, meaning, architecture), Findings()
    except PatternRefused as error:
        return Examination([*reasons, str(error)], config=config)
    for name in non_finite(weights, header):
        values.add("These tensors hold NaN or infinity, read as float32", name)
    for name in _pointing_beyond(weights, header, meaning):
        values.add("These tensors point at vectors that the bank does not have", name)
    misfits = binding.misfits.sentences()
    reasons = [*reasons, *binding.faults.sentences(), *misfits, *values.sentences()]
    return Examination(
        reasons=reasons,
        fits=not misfits,
        config=config,
        meaning=meaning,
        modules=binding.modules,
        tables=binding.tables,
        rows=binding.rows,
        shared=binding.shared,
        biases=binding.biases,
        architecture=binding.architecture,
        remarks=tuple(binding.remarks.sentences()),
    )


def _pointing_beyond(weights: Path, header: dict[str, TensorInfo], meaning: LoraConfig | None) -> list[str]:
    if meaning is None or not isinstance(meaning.method, VbLora):
        return []
    indices = [tensor for tensor in header.values() if tensor.is_of_indices]
    return pointing_beyond(weights, indices, meaning.method.num_vectors)


def _read_config(path: Path, max_rank: int) -> tuple[dict[str, Any], LoraConfig | None, list[str]]:
    try:
        config = config_file.read_config(path)
    except config_file.ConfigRefused as error:
        return {}, None, [str(error)]
    return config, *check_config(config, max_rank)


def _read_header(path: Path) -> dict[str, TensorInfo]:
    """The header of the file at `path`. Raises `HeaderError`, which says what the file is instead."""
    with path.open("rb") as file:
        head = file.read(9)
    # A length may begin like a pickle does.
    is_header = len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] < path.stat().st_size
    for magic, kind in () if is_header else _FOREIGN:
        if head.startswith(magic):
            raise HeaderError(f"{kind} under another name; save it as safetensors")
    try:
        return read_header(path)
    except HeaderError as error:
        raise HeaderError(f"damaged: {str(error)[:500]}") from error
