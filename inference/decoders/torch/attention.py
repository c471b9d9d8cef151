"""Attention over a paged cache, where a row's arithmetic depends on its own position and nothing else.

Each decode row attends over its own blocks, padded to whole blocks; a prefill tile over its own, padded as if
the tile were full. Rows of equal padded length share a call as separate items of its batch, which the kernel
computes one by one; padding is masked and contributes exact zeros.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from inference.decoders.batch import Batch, Segment
from inference.decoders.kv_tensors import KVCache, Writes
from inference.decoders.torch.panels import Layout
from inference.model.architecture import Architecture
from inference.tile import TILE


@dataclass(frozen=True)
class AttentionCall:
    """Padded rows that attend together because their contexts have one shape.

    `rows` selects them among the padded rows: items times `queries` of them. `blocks` int64 [items, n] is what
    they look at, `mask` bool [items, 1, queries * group, n * block size] who sees what.
    """

    rows: Tensor | slice
    blocks: Tensor
    mask: Tensor
    queries: int


@dataclass(frozen=True)
class AttentionPlan:
    """What layers of one pass do alike: where to write, and which calls of attention there are by their window."""

    writes: Writes
    calls: dict[int | None, tuple[AttentionCall, ...]]


def plan_attention(batch: Batch, layout: Layout, architecture: Architecture, block_size: int) -> AttentionPlan:
    """Work out, once a pass, where its keys go and how its rows attend."""
    slots = batch.cache_slots
    writes = Writes(slots, slots[slots % block_size == 0] // block_size)
    calls = {}
    for window in {architecture.window(layer) for layer in range(architecture.num_layers)}:
        planner = _Planner(architecture, window, block_size, batch.token_ids.device)
        tiles = [planner.tile(segment, layout.tile(index)) for index, segment in enumerate(batch.tiles)]
        calls[window] = (*planner.decodes(batch.decodes), *tiles)
    return AttentionPlan(writes, calls)


@dataclass(frozen=True)
class Scores:
    """How attention scores are made of queries and keys: times `scale`, and bent to stay below `cap`; 0 as in
    `DecoderSpec`."""

    scale: float = 0.0
    cap: float = 0.0


def attend(queries: Tensor, cache: KVCache, layer: int, calls: tuple[AttentionCall, ...], scores: Scores) -> Tensor:
    """Attention of `queries` [padded rows, heads, head_dim] over the cache, as [padded rows, heads * head_dim].

    Padding rows that nobody looks for stay zero.
    """
    out = torch.zeros_like(queries)
    for call in calls:
        out[call.rows] = _attend(queries[call.rows], cache.keys[layer], cache.values[layer], call, scores)
    return out.flatten(1)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, call: AttentionCall, scores: Scores) -> Tensor:
    """The heads that share a KV head become more queries of it, so that keys are not repeated in memory."""
    items, (_, heads, dim), kv_heads = len(call.blocks), queries.shape, keys.shape[2]
    group = heads // kv_heads
    folded = queries.view(items, call.queries, kv_heads, group, dim).transpose(1, 2)
    folded = folded.reshape(items, kv_heads, call.queries * group, dim)
    keys, values = (cached[call.blocks].flatten(1, 2).transpose(1, 2) for cached in (keys, values))
    if scores.cap:
        attended = _capped(folded, keys, values, call.mask, scores)
    else:
        attended = functional.scaled_dot_product_attention(
            folded, keys, values, attn_mask=call.mask, scale=scores.scale or None
        )
    return attended.view(items, kv_heads, call.queries, group, dim).transpose(1, 2).reshape(-1, heads, dim)


def _capped(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scores: Scores) -> Tensor:
    """Attention in float32 item by item, so that their number chooses no kernel: [items, kv heads, queries, dim]."""
    scale = scores.scale or queries.shape[-1] ** -0.5
    items = []
    for query, key, value, seen in zip(queries.float(), keys.float(), values.float(), mask, strict=True):
        bent = scores.cap * torch.tanh(query @ key.transpose(1, 2) * scale / scores.cap)
        items.append(bent.masked_fill(~seen, -torch.inf).softmax(-1) @ value)
    return torch.stack(items).to(queries.dtype)


class _Planner:
    def __init__(self, architecture: Architecture, window: int | None, block_size: int, device: torch.device) -> None:
        self.window = window
        self.group = architecture.num_heads // architecture.num_kv_heads
        self.block_size, self.device = block_size, device

    def decodes(self, segments: tuple[Segment, ...]) -> list[AttentionCall]:
        """One call for each padded length, which depends on a row's own position only."""
        alike: dict[int, list[tuple[int, Segment, range]]] = defaultdict(list)
        for place, segment in enumerate(segments):
            span = self._span(segment.context - 1, segment.context)
            alike[len(span)].append((place, segment, span))
        return [self._decode(members) for members in alike.values()]

    def _decode(self, members: list[tuple[int, Segment, range]]) -> AttentionCall:
        tables = [self._table(segment, span) for _, segment, span in members]
        positions = self._tensor([[segment.context - 1] for _, segment, _ in members])
        starts = self._tensor([span.start for _, _, span in members])
        rows = self._tensor([place for place, _, _ in members])
        return AttentionCall(rows, self._tensor(tables), self._mask(positions, starts, len(tables[0])), 1)

    def tile(self, segment: Segment, rows: slice) -> AttentionCall:
        """The whole tile attends, also where the last one is partly padding."""
        first = segment.context - segment.length
        span = self._span(first, first + TILE)
        positions = first + torch.arange(TILE, device=self.device)[None, :]
        table = self._table(segment, span)
        return AttentionCall(
            rows, self._tensor([table]), self._mask(positions, self._tensor([span.start]), len(table)), TILE
        )

    def _span(self, first_query: int, end: int) -> range:
        """The blocks that queries from position `first_query` to `end` may look at."""
        oldest = 0 if self.window is None else max(0, first_query - self.window + 1)
        return range(oldest // self.block_size, -(-end // self.block_size))

    def _table(self, segment: Segment, span: range) -> list[int]:
        """Past the sequence's own blocks its last one stands in: masked, and finite."""
        last = -(-segment.context // self.block_size) - 1
        return [segment.block_table[min(index, last)] for index in span]

    def _mask(self, positions: Tensor, starts: Tensor, num_blocks: int) -> Tensor:
        columns = starts[:, None] * self.block_size + torch.arange(num_blocks * self.block_size, device=self.device)
        distance = positions[:, :, None] - columns[:, None, :]
        seen = distance >= 0
        if self.window is not None:
            seen &= distance < self.window
        return seen.repeat_interleave(self.group, dim=1).unsqueeze(1)

    def _tensor(self, values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)
