"""Which kind of checkpoint a model directory holds."""

from __future__ import annotations

from pathlib import Path

from inference.model.architecture import Architecture
from inference.model.checkpoint import Checkpoint
from inference.model.gguf.checkpoint import GgufCheckpoint
from inference.model.quantized.checkpoint import QuantizedCheckpoint
from inference.model.quantized.config import scheme_of


def open_checkpoint(directory: Path, architecture: Architecture) -> Checkpoint:
    """The checkpoint of the model in `directory`. Raises `WeightsError` for one that cannot be read."""
    if (directory / GgufCheckpoint.FILE).is_file():
        return GgufCheckpoint(directory, architecture)
    scheme = scheme_of(directory)
    return QuantizedCheckpoint(directory, scheme) if scheme else Checkpoint(directory)
