"""A plan becomes a batch, a batch becomes tokens. Owns the tensors of the key-value cache.

The only place where sequences meet tensors; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import isfinite
from typing import Final

import torch
from torch import Tensor

from inference.decoders.batch import Batch, Segment
from inference.decoders.contract import Decoder
from inference.decoders.kv_tensors import KVCache
from inference.engine.sampler import RowSampling, SampledToken, accept, sample, score
from inference.scheduling.plan import Plan, Work
from inference.tile import TILE


class OutOfMemory(Exception):
    """The device had no memory for a pass. Nothing of the pass counts; it may be tried again with less in it."""


@dataclass(frozen=True)
class Outcome:
    """What came of a pass, by id of the sequence: its next tokens, or for a probe the largest change of a logit.

    `scores` say how likely tokens of prompts were, by their positions; `sums` are those of the hidden states of tiles,
    float64 [width], by the position at which a tile starts.
    `spoiled` are sequences in whose blocks a drafted token that was not accepted left numbers that are not finite.
    """

    tokens: Mapping[str, tuple[SampledToken, ...]]
    logit_deltas: Mapping[str, float]
    spoiled: tuple[str, ...] = ()
    scores: Mapping[str, Mapping[int, SampledToken]] = field(default_factory=dict)
    sums: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)


SHORT_PROOF: Final = 2
"""Tokens of the canary that a program's proof reads, where rows are uniform."""
OUT_OF_MEMORY: Final = (OutOfMemory, torch.OutOfMemoryError, MemoryError)
"""What a step may raise when the device is full: from a pass, or from an adapter that is put into its slot."""


@dataclass
class _Rows:
    """A batch under construction, as plain lists."""

    block_size: int
    token_ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    cache_slots: list[int] = field(default_factory=list)
    adapter_slots: list[int] = field(default_factory=list)
    sample_rows: list[int] = field(default_factory=list)
    hidden_rows: list[int] = field(default_factory=list)

    def add(self, token_ids: list[int], start: int, table: tuple[int, ...], slot: int, active_from: int = 0) -> Segment:
        """Append rows for the tokens at positions from `start` on, of `slot` from `active_from` on; their segment."""
        first, end = len(self.token_ids), start + len(token_ids)
        self.token_ids += token_ids
        self.positions += range(start, end)
        size = self.block_size
        self.cache_slots += [table[position // size] * size + position % size for position in range(start, end)]
        num_before = min(max(active_from - start, 0), len(token_ids))
        self.adapter_slots += [-1] * num_before + [slot] * (len(token_ids) - num_before)
        return Segment(first, len(token_ids), table, end)

    def add_one(self, token_id: int, position: int, table: tuple[int, ...], slot: int) -> Segment:
        """`add` for a single token, of which a pass has many."""
        self.token_ids.append(token_id)
        self.positions.append(position)
        index, offset = divmod(position, self.block_size)
        self.cache_slots.append(table[index] * self.block_size + offset)
        self.adapter_slots.append(slot)
        return Segment(len(self.token_ids) - 1, 1, table, position + 1)


class ModelRunner:
    """Runs plans on `decoder`. `cache` has blocks for the canary behind those that the block pool hands out."""

    def __init__(self, decoder: Decoder, cache: KVCache, canary_ids: tuple[int, ...]) -> None:
        assert 0 < len(canary_ids) <= TILE, "the canary is one tile"
        self.decoder, self.cache, self.canary_ids = decoder, cache, canary_ids
        num_blocks = canary_blocks(cache.block_size)
        self._canary_table = tuple(range(cache.num_blocks - num_blocks, cache.num_blocks))
        self._canary_logits: dict[int, Tensor] = {}

    def proof_ids(self, is_awaited: bool) -> tuple[int, ...]:
        """The canary, or its beginning for a program that waits: each row costs those who read beside it. Two tokens
        take all that an adapter has: from the second on a row attends to another one."""
        is_short = is_awaited and self.decoder.rows_are_uniform
        return self.canary_ids[:SHORT_PROOF] if is_short else self.canary_ids

    def run(self, plan: Plan, samplings: Mapping[str, Sequence[RowSampling]]) -> Outcome:
        """Copy blocks, compute one pass and sample the next tokens of every sequence that gets any.

        `samplings` is by id of sequence, one for each of its sampled rows. Raises `OutOfMemory`, after which the
        sequences are as before.
        """
        for source, target in plan.copies:
            self.cache.copy(source, target)
        sampled = [work for work in plan.works if work.is_sampled]
        spans = _spans(plan)
        try:
            logits = self.forward(plan)
            rows = [row for work, span in spans if work.is_answered for row in span[-1 - len(work.draft) :]]
            wanted = logits if len(rows) == len(logits) else logits[rows]
            row_samplings = [row for work in sampled for row in samplings.get(work.sequence.id, ())]
            tokens = _weighed(sample(wanted, row_samplings, self.decoder.argmax), self.decoder.coefficients, rows)
            scores = _scores([(work, logits[span[0] : span[-1] + 1]) for work, span in spans if work.is_scored])
            pooled = [work for work in plan.works if work.sequence.is_pooled]
            sums = _sums(pooled, self.decoder.hidden) if pooled else {}
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory from error
        probes = {work.sequence.id: span[-1] for work, span in spans if work.is_sampled and work.sequence.is_probe}
        base = self._base_logits(plan, logits) if probes else {}
        lengths = {work.sequence.id: work.sequence.num_prompt for work in sampled}
        deltas = {id: float((logits[row] - base[lengths[id]]).abs().max()) for id, row in probes.items()}
        return replace(_outcome(sampled, tokens, deltas), scores=scores, sums=sums)

    def _base_logits(self, plan: Plan, logits: Tensor) -> dict[int, Tensor]:
        """The base's logits behind so many tokens of the canary: those of this pass, and where rows have the same bits
        in any company those of earlier ones."""
        lengths = self._base_lengths(plan)
        new = {length: logits[row - len(lengths)] for row, length in enumerate(lengths)}
        if self.decoder.rows_are_uniform:
            self._canary_logits |= {length: row.clone() for length, row in new.items()}
        return self._canary_logits | new

    def _base_lengths(self, plan: Plan) -> list[int]:
        """Behind how many tokens of the canary the base's logits are to be computed in this pass."""
        lengths = {work.sequence.num_prompt for work in plan.tiles if work.sequence.is_probe}
        return sorted(lengths - self._canary_logits.keys())

    def forward(self, plan: Plan) -> Tensor:
        """Logits float32 [n, vocab] of the wanted rows, to be used before the next call: of each work as many as its
        `num_logits`.

        With a probe among them the last rows are the base's on the canary, unless they are known.
        """
        return self.decoder.forward(self._batch(plan), self.cache)

    def _batch(self, plan: Plan) -> Batch:
        rows = _Rows(self.cache.block_size)
        decodes = [segment for work in plan.decodes for segment in _add_decodes(rows, work)]
        is_free = self.decoder.rows_are_uniform
        assert is_free or not any(work.start % TILE for work in plan.tiles), "tiles start at multiples of their size"
        tiles = [_add_tile(rows, work) for work in plan.tiles]
        if lengths := self._base_lengths(plan):
            canary = rows.add(list(self.canary_ids[: lengths[-1]]), 0, self._canary_table, -1)
            tiles.append(canary)
            rows.sample_rows += [canary.start + length - 1 for length in lengths]
        return Batch(
            token_ids=_tensor(rows.token_ids),
            positions=_tensor(rows.positions),
            cache_slots=_tensor(rows.cache_slots),
            adapter_slots=_tensor(rows.adapter_slots),
            decodes=tuple(decodes),
            tiles=tuple(tiles),
            sample_rows=_tensor(rows.sample_rows),
            hidden_rows=_tensor(rows.hidden_rows),
        )


def canary_blocks(block_size: int) -> int:
    """How many blocks of a cache the canary needs, behind those of the pool."""
    return -(-TILE // block_size)


def _tensor(values: list[int]) -> Tensor:
    """On the host: the decoder of a GPU sends all parts of a batch in one copy."""
    return torch.tensor(values, dtype=torch.int64)


def _add_decodes(rows: _Rows, work: Work) -> list[Segment]:
    """Each row is a segment of its own: a replayed token is computed as it was when it was new. They lie behind the
    prompt, where its adapter is active."""
    sequence = work.sequence
    tokens = [*sequence.tokens(work.start, work.length), *work.draft]
    segments = [
        rows.add_one(token, position, sequence.block_table, sequence.slot)
        for position, token in enumerate(tokens, work.start)
    ]
    _mark(rows, work)
    return segments


def _add_tile(rows: _Rows, work: Work) -> Segment:
    sequence = work.sequence
    assert work.length <= TILE, "a tile has at most its size"
    tokens, table = sequence.tokens(work.start, work.length), sequence.block_table
    segment = rows.add(tokens, work.start, table, sequence.slot, sequence.active_from)
    _mark(rows, work)
    return segment


def _mark(rows: _Rows, work: Work) -> None:
    end = len(rows.token_ids)
    rows.sample_rows += range(end - work.num_logits, end)
    if work.sequence.is_pooled:
        rows.hidden_rows += range(end - work.length, end)


def _weighed(tokens: list[SampledToken], coefficients: Tensor, rows: Sequence[int]) -> list[SampledToken]:
    """`tokens`, those that a blend's rows decided with what its gate made of these, a row of `coefficients` each.

    What is infinite is not told: a store of JSON takes no such number, and the answer would not be written down.
    """
    if not len(coefficients):
        return tokens
    told = coefficients[list(rows)].tolist()
    return [
        replace(token, weights=tuple(own)) if all(map(isfinite, own)) else token
        for token, own in zip(tokens, told, strict=True)
    ]


def _outcome(sampled: list[Work], tokens: list[SampledToken], deltas: Mapping[str, float]) -> Outcome:
    """Whose each of `tokens` is; of a draft's those that count."""
    accepted, spoiled, end = {}, [], 0
    for work in sampled:
        if work.sequence.is_probe:
            continue
        start, end = end, end + 1 + len(work.draft)
        accepted[work.sequence.id] = counted = accept(tokens[start:end], work.draft)
        if not all(token.is_finite for token in tokens[start + len(counted) : end]):
            spoiled.append(work.sequence.id)
    return Outcome(accepted, deltas, tuple(spoiled))


def _spans(plan: Plan) -> list[tuple[Work, range]]:
    """Which rows of the logits are those of each work."""
    ends = accumulate(work.num_logits for work in plan.works)
    return [(work, range(end - work.num_logits, end)) for work, end in zip(plan.works, ends, strict=True)]


def _scores(works: Sequence[tuple[Work, Tensor]]) -> dict[str, dict[int, SampledToken]]:
    """How likely the token behind each row of `works` was, with the logits of the rows; the prompt's last has none."""
    scores = dict[str, dict[int, SampledToken]]()
    for work, logits in works:
        sequence, first = work.sequence, work.start + 1
        token_ids = sequence.prompt_ids[first : first + work.length]
        told = score(logits[: len(token_ids)], token_ids, sequence.num_alternatives)
        scores.setdefault(sequence.id, {}).update(enumerate(told, first))
    return scores


def _sums(works: Sequence[Work], hidden: Tensor) -> dict[str, dict[int, Tensor]]:
    """The sums of the rows of `hidden`, tile by tile: each is a matter of its own tokens."""
    sums = dict[str, dict[int, Tensor]]()
    for work, part in zip(works, hidden.cpu().split([work.length for work in works]), strict=True):
        sums.setdefault(work.sequence.id, {})[work.start] = part.to(torch.float64).sum(0)
    return sums


def is_out_of_memory(error: Exception) -> bool:
    """Torch says it in a class of its own on a GPU and in words on a CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
