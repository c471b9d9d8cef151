"""The tensors of the key-value cache. Which block belongs to whom is not known here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inference.model.architecture import Architecture


class KVCache:
    """Keys and values of every layer in blocks: `keys[layer]` and `values[layer]` are
    [blocks, block size, kv heads, head_dim]. Which block belongs to whom is not known here.

    They start unwritten, so that a system which commits memory on first use gives only what is used.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        shape = (num_blocks, block_size, architecture.num_kv_heads, architecture.head_dim)
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(architecture.num_layers)]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for _ in range(architecture.num_layers)]

    def copy(self, source: int, target: int) -> None:
        """Put what block `source` holds into block `target`."""
        for blocks in (*self.keys, *self.values):
            blocks[target] = blocks[source]

    def write(self, layer: int, writes: Writes, keys: Tensor, values: Tensor) -> None:
        """Put `keys` and `values` [rows, kv heads, head_dim] where `writes` says.

        A block that gets its first token is wiped, so that masked positions never hold what another sequence
        left there: zero times a leftover infinity would be NaN.
        """
        for cache, rows in ((self.keys[layer], keys), (self.values[layer], values)):
            cache[writes.fresh_blocks] = 0
            cache.view(-1, *cache.shape[2:])[writes.slots] = rows


@dataclass(frozen=True)
class Writes:
    """Where new keys and values go: `slots` int64 [rows], and the blocks that these rows open."""

    slots: Tensor
    fresh_blocks: Tensor
