"""What a batch looks like to a GPU: order, padding, and the few shapes that passes have."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need the package triton")

from inference.decoders.batch import Batch, Segment
from inference.decoders.gpu.step import PANEL, Staging, decode_shape, shape_of
from inference.tile import TILE

CPU = torch.device("cpu")


def batch(
    decodes: tuple[Segment, ...], tiles: tuple[Segment, ...], slots: list[int], num_sampled: int | None = None
) -> Batch:
    """Row n has token 100 + n; every row is sampled, or as many as asked for."""
    positions = [0] * len(slots)
    for segment in decodes + tiles:
        first = segment.context - segment.length
        positions[segment.start : segment.start + segment.length] = range(first, segment.context)
    rows = torch.arange(len(slots))
    sampled = rows[:num_sampled]
    return Batch(100 + rows, torch.tensor(positions), 200 + rows, torch.tensor(slots), decodes, tiles, sampled)


def test_decode_rows_are_sorted_by_slot_and_tiles_follow() -> None:
    decodes = (Segment(0, 1, (4, 5), 17), Segment(1, 1, (6,), 9), Segment(2, 1, (7,), 1))
    mixed = batch(decodes, (Segment(3, 2, (8, 9), 34),), [2, -1, 0, 1, 1])
    staging = Staging(shape_of(mixed, 16, False), CPU)
    staging.fill(mixed)
    step, places = staging.step, [2, 0, 1, 16, 17]
    assert step.samples[:5].tolist() == places
    assert step.token_ids[places].tolist() == [100, 101, 102, 103, 104]
    assert step.cache_slots[places].tolist() == [200, 201, 202, 203, 204]
    assert step.positions[places].tolist() == [16, 8, 0, 32, 33]
    assert step.slots.tolist() == [-1, 0, 2] + [-1] * 13 + [1] * TILE
    assert step.decodes.contexts[:4].tolist() == [9, 1, 17, 0]
    assert step.decodes.tables[2, :2].tolist() == [4, 5]
    assert (step.tiles.first, step.tiles.starts.tolist(), step.tiles.contexts.tolist()) == (16, [32], [34])
    assert step.tiles.tables[0, :2].tolist() == [8, 9]
    padding = [row for row in range(len(step.cache_slots)) if row not in places]
    assert (step.cache_slots[padding] == -1).all()


def test_nothing_of_the_last_pass_is_left_in_the_next() -> None:
    shape = decode_shape(4, 40, 16, False)
    staging = Staging(shape, CPU)
    staging.fill(batch(tuple(Segment(n, 1, (n,), 5) for n in range(4)), (), [3, 2, 1, 0]))
    staging.fill(batch((Segment(0, 1, (9,), 2),), (), [1]))
    assert staging.step.slots.tolist() == [1, -1, -1, -1]
    assert staging.step.cache_slots.tolist() == [200, -1, -1, -1]
    assert staging.step.decodes.contexts.tolist() == [2, 0, 0, 0]


def test_passes_have_few_shapes() -> None:
    assert len({decode_shape(rows, context, 32, False) for rows in range(1, 129) for context in (1, 512)}) == 11
    assert decode_shape(5, 512, 32, False).splits == 1
    assert decode_shape(5, 1100, 32, False).splits == 4


def test_passes_with_tiles_have_fewer_for_each_number_of_tiles() -> None:
    shapes = set()
    for tiles in range(1, 33):
        prompt = tuple(Segment(n * TILE, TILE, (9,), TILE) for n in range(tiles))
        for decodes in range(65):
            rows = tuple(Segment(tiles * TILE + n, 1, (n,), 1) for n in range(decodes))
            shapes.add(shape_of(batch(rows, prompt, [-1] * (decodes + tiles * TILE), decodes + tiles), 32, False))
    assert len(shapes) == 9 * 4
    assert {(shape.decode_rows, shape.num_tiles) for shape in shapes} >= {(0, 1), (16, 6), (32, 12), (64, 32)}


def test_a_tile_of_which_more_than_one_row_is_sampled_has_room_for_all() -> None:
    prompt = (Segment(0, TILE, (9,), TILE),)
    assert shape_of(batch((), prompt, [-1] * TILE, 1), 32, False).num_samples == 1
    assert shape_of(batch((), prompt, [-1] * TILE, 2), 32, False).num_samples == TILE


def test_a_padded_tile_has_no_context_no_adapter_and_no_place() -> None:
    tiles = tuple(Segment(n * TILE, TILE, (n,), TILE) for n in range(5))
    prompts = batch((), tiles, [2] * 5 * TILE)
    staging = Staging(shape_of(prompts, 32, False), CPU)
    for given in (replace(prompts, tiles=tiles + tiles[:1]), prompts):
        staging.fill(given)
    assert staging.step.tiles.contexts.tolist() == [TILE] * 5 + [0]
    assert (staging.step.slots[5 * TILE :] == -1).all()
    assert (staging.step.cache_slots[5 * TILE :] == -1).all()


def test_fixed_panels_round_every_kind_of_row_up() -> None:
    decodes = tuple(Segment(n, 1, (n,), 1) for n in range(3))
    tiles = tuple(Segment(3 + n * TILE, TILE, (9,), TILE) for n in range(5))
    shape = shape_of(batch(decodes, tiles, [-1] * (3 + 5 * TILE)), 32, is_deterministic=True)
    assert (shape.decode_rows, shape.num_tiles * TILE) == (PANEL, 2 * PANEL)
    assert decode_shape(PANEL + 1, 1, 32, True).decode_rows == 2 * PANEL
