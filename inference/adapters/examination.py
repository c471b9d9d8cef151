"""The examination of an adapter's two files: what they say, or every reason to refuse them, in sentences.

No torch is needed, so the site asks before it keeps an upload and the worker before it reads a number to compute with.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from functools import lru_cache
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

KEPT_TENSORS: Final = 4096
"""An examination of more of them is not kept in mind."""

_FOREIGN: Final = (
    (b"PK\x03\x04", "a PyTorch pickle (a zip archive)"),
    (b"\x80", "a Python pickle"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
)


@dataclass(frozen=True)
class Examination:
    """What the files say. With any `reasons` the rest may be empty; `fits` is whether none of them is the base's.

    It is shared with all that ask the same, so nobody changes what is in it.
    """

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
    is_bound: bool = True
    """Whether it was found whose each tensor is."""


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
    config = _raw_config(config_path)
    try:
        header = _read_header(weights)
    except HeaderError as error:
        return Examination([*_read_config(config, max_rank)[2], f"{WEIGHTS} is {error}."])
    name = architecture.name if architecture else ""
    judge = _without_values if len(header) <= KEPT_TENSORS else _without_values.__wrapped__
    found = judge(config, tuple(header.values()), architecture, name, max_rank)
    values = _judge_values(weights, header, found.meaning) if found.is_bound else []
    return replace(found, reasons=[*found.reasons, *values]) if values else found


def _judge_values(weights: Path, header: dict[str, TensorInfo], meaning: LoraConfig | None) -> list[str]:
    values = Findings()
    for name in non_finite(weights, header):
        values.add("These tensors hold NaN or infinity, read as float32", name)
    for name in _pointing_beyond(weights, header, meaning):
        values.add("These tensors point at vectors that the bank does not have", name)
    return values.sentences()


@lru_cache(maxsize=16)
def _without_values(
    raw: bytes, tensors: tuple[TensorInfo, ...], architecture: Architecture | None, name: str, max_rank: int
) -> Examination:
    """What a config and the names and shapes of `tensors` say, for the base of this `name`; it stays true of all files
    with the same ones, as the states of an adapter that learns have them."""
    config, meaning, reasons = _read_config(raw, max_rank)
    try:
        binding = bind({tensor.name: tensor for tensor in tensors}, meaning, architecture)
    except PatternRefused as error:
        return Examination([*reasons, str(error)], config=config, is_bound=False)
    misfits = binding.misfits.sentences()
    return Examination(
        reasons=[*reasons, *binding.faults.sentences(), *misfits],
        fits=not misfits,
        config=config,
        meaning=meaning,
        modules=dict(binding.modules),
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


def _raw_config(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(config_file.MAX_CONFIG_BYTES + 1)


def _read_config(raw: bytes, max_rank: int) -> tuple[dict[str, Any], LoraConfig | None, list[str]]:
    try:
        config = config_file.parse_config(raw)
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
