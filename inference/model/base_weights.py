"""The base's own weights for those who read adapters: DoRA's norms, and tables and biases that come with an
adapter."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from inference.model.architecture import EMBEDDING, HEAD, Architecture
from inference.model.checkpoint import Checkpoint
from inference.model.checkpoints import open_checkpoint
from inference.model.fingerprint import update_identity
from inference.model.weights import read_bias, read_linear


class BaseWeights:
    """Weights of the checkpoint in `directory`, read when they are asked for and not kept."""

    def __init__(self, directory: Path, architecture: Architecture, dtype: torch.dtype) -> None:
        self._directory, self._architecture, self._dtype = directory, architecture, dtype

    def read(self, target: str, layer: int) -> Tensor:
        """The weight of `target` in `layer` in float32, rounded to the decoder's type; raises `WeightsError`."""
        target = EMBEDDING if target == HEAD and self._architecture.tied_embeddings else target
        return read_linear(self._checkpoint, self._architecture, layer, (target,), self._dtype).to(torch.float32)

    def is_in_fewer_bits(self, target: str) -> bool:
        """Whether the checkpoint has the table `target`, the embedding or the head, rounded to fewer bits."""
        name = f"model.{EMBEDDING}" if target == EMBEDDING or self._architecture.tied_embeddings else target
        name, shape, checkpoint = f"{name}.weight", self._architecture.target_shape(EMBEDDING), self._checkpoint
        if not checkpoint.is_quantized:
            return False
        return checkpoint.table(name, shape, self._dtype) is not None or checkpoint.kept(name, shape) is not None

    def bias(self, target: str, layer: int) -> Tensor:
        """The bias [out] of a linear or a norm of `NORMS`, likewise; zeros where it has none."""
        return read_bias(self._checkpoint, self._architecture, layer, target, self._dtype).to(torch.float32)

    @cached_property
    def identity(self) -> str:
        """Another checkpoint has another one."""
        state = hashlib.sha256()
        for path in self._checkpoint.files:
            update_identity(state, path)
        return state.hexdigest()

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return open_checkpoint(self._directory, self._architecture)
