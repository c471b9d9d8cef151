"""Which kind of checkpoint a model directory holds, and whether its head is its embedding."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from inference.model.architecture import EMBEDDING, HEAD, Architecture
from inference.model.checkpoint import Checkpoint
from inference.model.gguf.checkpoint import GgufCheckpoint
from inference.model.gguf.file import gguf_in
from inference.model.quantized.checkpoint import QuantizedCheckpoint
from inference.model.quantized.config import scheme_of

log = logging.getLogger(__name__)

_TABLE: Final = f"model.{EMBEDDING}.weight"
_HEAD: Final = f"{HEAD}.weight"


def open_checkpoint(directory: Path, architecture: Architecture) -> Checkpoint:
    """The checkpoint of the model in `directory`. Raises `WeightsError` for one that cannot be read.

    A tied model that was saved with its head alone has that for its embedding, as in transformers.
    """
    if gguf_in(directory):
        return GgufCheckpoint(directory, architecture)
    scheme = scheme_of(directory)
    checkpoint = QuantizedCheckpoint(directory, scheme) if scheme else Checkpoint(directory)
    if architecture.tied_embeddings and _TABLE not in checkpoint and _HEAD in checkpoint:
        checkpoint.name_also(_TABLE, _HEAD)
    return checkpoint


def with_own_head(directory: Path, architecture: Architecture) -> Architecture:
    """`architecture`, untied where the checkpoint in `directory` has a head that is not its embedding.

    config.json says otherwise then, and transformers, from its fifth version on, takes the weights' word for it.
    """
    if not architecture.tied_embeddings:
        return architecture
    checkpoint = open_checkpoint(directory, architecture)
    if _HEAD not in checkpoint or _is_embedding(checkpoint, architecture):
        return architecture
    log.warning("%s has a head of its own, which is taken: config.json says tie_word_embeddings true", directory)
    return replace(architecture, tied_embeddings=False)


def _is_embedding(checkpoint: Checkpoint, architecture: Architecture) -> bool:
    shape = architecture.target_shape(EMBEDDING)
    table, head = (checkpoint.read(name, shape) for name in (_TABLE, _HEAD))
    return torch.equal(table, head.to(table.dtype))
