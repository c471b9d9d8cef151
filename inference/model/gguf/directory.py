"""A GGUF file as a model directory: config, tokenizer, and the file itself, or its weights in bf16."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from inference.model.architecture import ArchitectureError, parse_architecture
from inference.model.gguf.checkpoint import GgufCheckpoint
from inference.model.gguf.config import config_of
from inference.model.gguf.file import GgufFile, names_in
from inference.model.gguf.header import GgufError
from inference.model.gguf.names import FACTORS, LONG_FACTORS, places_in
from inference.model.gguf.tokenizer import write_tokenizer
from inference.model.tensor_names import needed
from inference.reading import reading, shown

_SPECIAL: Final = ("bos_token_id", "eos_token_id", "pad_token_id")


def write_directory(source: Path, directory: Path, expands: bool = False) -> None:
    """Write the model in the GGUF file `source` into the existing `directory`: the file as it is, or, where it
    `expands`, safetensors in bf16. Raises `GgufError`."""
    file = GgufFile(source)
    with reading(str(source), GgufError):
        config = config_of(file)
        _check(file, config)
        ends = _write_tokenizer(file, directory)
    _write_json(directory / "config.json", config)
    special = {key: config[key] for key in _SPECIAL} | ({"eos_token_id": ends} if ends else {})
    _write_json(directory / "generation_config.json", special)
    names = names_in(file)
    for path, name in zip(file.paths, names, strict=True):
        _place(path, directory / name)
    if expands:
        _expand(directory, config)
        for name in names:
            (directory / name).unlink()


def _write_tokenizer(file: GgufFile, directory: Path) -> list[int]:
    try:
        return write_tokenizer(file.whole_fields(), directory)
    except GgufError as error:
        raise GgufError(f"{file.path} cannot be served: {error}") from error


def _check(file: GgufFile, config: dict[str, Any]) -> None:
    try:
        architecture = parse_architecture(config)
    except ArchitectureError as error:
        raise GgufError(f"{file.path} cannot be served: {error}") from error
    family = file.fields["general.architecture"]
    places = places_in(architecture, family)
    unknown = sorted(set(file.tensors) - {place.tensor for place in places.values()} - {FACTORS, *LONG_FACTORS})
    if unknown:
        raise GgufError(
            f"the tensor {shown(unknown[0])} of {file.path} has no place in a {family} model here; use its safetensors"
        )
    missing = sorted({places[name].tensor for name in needed(architecture)} - set(file.tensors))
    if missing:
        raise GgufError(f"{file.path} has no tensor {missing[0]!r}; it holds no whole model, fetch it again")


def _place(source: Path, target: Path) -> None:
    """The same file where the disk is the same, so that it takes no room; else a copy."""
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _expand(directory: Path, config: dict[str, Any]) -> None:
    architecture = parse_architecture(config)
    checkpoint = GgufCheckpoint(directory, architecture)
    tensors = {name: checkpoint.read(name, shape, torch.bfloat16) for name, shape in checkpoint.shapes().items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
