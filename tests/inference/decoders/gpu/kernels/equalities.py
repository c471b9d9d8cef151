"""What every kernel has to equal, on any device: on a CPU in Triton's interpreter, on a GPU compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from inference.decoders.gpu.kernels import activation, grouped, logits, lora, norm, paged_attention, rope, slot_table
from inference.decoders.gpu.kernels.norm import Addends
from inference.decoders.gpu.kernels.paged_attention import Scores
from inference.decoders.gpu.kernels.rope import Heads
from inference.model.architecture import EMBEDDING, Architecture
from inference.model.linear import Int4Linear, Int8Linear
from inference.model.spec import Activation, Norm
from inference.tile import TILE

# Triton's interpreter multiplies bfloat16 as if it were whole numbers, so rounding is tested in float16 there.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

NOWHERE = 1 << 28
"""A block or an address at which there is no memory, so that who reads it does not get away with it."""


def random(*shape: int, dtype: torch.dtype, device: str, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device, dtype)


def whole(values: Any, device: str) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


def assert_near(one: Tensor, other: Tensor) -> None:
    tolerance = TOLERANCE[one.dtype]
    torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def norm_weight(kind: Norm, *shape: int, dtype: torch.dtype, device: str, seed: int = 2) -> Tensor:
    """In the type that the loader gives it; of a LayerNorm with a bias."""
    parts = (2,) if kind is Norm.LAYER else ()
    wide = torch.float32 if kind is Norm.RMS_FLOAT32 else dtype
    return random(*parts, *shape, dtype=wide, device=device, seed=seed)


def check_norm(dtype: torch.dtype, device: str, kind: Norm) -> None:
    """With nothing to add; with what every kind of block adds; and with what is added and goes on as it is."""

    def rows(seed: int) -> Tensor:
        return random(3, 72, dtype=dtype, device=device, seed=seed)

    bias, behind, weight = (
        rows(5)[0],
        *(norm_weight(kind, 72, dtype=dtype, device=device, seed=seed) for seed in (6, 7)),
    )
    sequential = Addends((rows(1),), (bias,), behind, 0.25)
    for addends, scaled_by, stream in (
        (None, weight, 1.0),
        (None, weight, 2.5),
        (Addends((rows(1),), (None,)), weight, 1.0),
        (sequential, weight, 1.0),
        (sequential, None, 1.0),
        (Addends((rows(1), rows(2)), (None, bias)), weight, 1.0),
        (sequential.at(whole([2, 0, 1], device)), weight, 2.5),
    ):
        hidden, twin_hidden = rows(0), rows(0)
        normed = norm.add_and_norm(hidden, addends, scaled_by, kind, 1e-5, stream)
        assert_near(normed, norm.add_and_norm_twin(twin_hidden, addends, scaled_by, kind, 1e-5, stream))
        assert_near(hidden, twin_hidden)
        assert torch.equal(hidden, rows(0)) == (addends is None and stream == 1.0)


def check_slot_biases(dtype: torch.dtype, device: str) -> None:
    """Of what is added and of what goes on, in rows of an adapter, of one without and of the base."""
    slots, own = whole([1, 0, -1], device), random(2, 3, 72, dtype=torch.float32, device=device, seed=8)
    table = slot_table.empty_table(2, 8, device).affine
    columns = [slot_table.INDEX[name] for name in ("mlp_out_norm", "attention_norm")]
    for column, biases in zip(columns, own, strict=True):
        table[1, column] = biases.data_ptr()
    behind, before = (
        norm.SlotBiases(slots, table, column, layer) for column, layer in zip(columns, (1, 2), strict=True)
    )
    weight = norm_weight(Norm.LAYER, 72, dtype=dtype, device=device)
    addends = Addends((random(3, 72, dtype=dtype, device=device, seed=1),), (None,), weight, slot_biases=behind)
    hidden, twin_hidden = (random(3, 72, dtype=dtype, device=device) for _ in range(2))
    normed = norm.add_and_norm(hidden, addends, weight, Norm.LAYER, 1e-5, slot_biases=before)
    shifts = (_shift_row(0, own[1, 2]), _shift_row(0, own[0, 1]))
    assert_near(normed, norm.add_and_norm_twin(twin_hidden, addends, weight, Norm.LAYER, 1e-5, 1.0, *shifts))
    assert_near(hidden, twin_hidden)


def _shift_row(row: int, bias: Tensor) -> Callable[[Tensor], None]:
    def shift(normed: Tensor) -> None:
        normed[row] += bias.view(normed.shape[1:])

    return shift


def check_activation(dtype: torch.dtype, device: str, kind: Activation, is_gated: bool) -> None:
    inner = 3 * random(3, 2 * 1100, dtype=dtype, device=device)
    for bias in (None, inner[0].clone()):
        assert_near(*(bend(inner, bias, kind, is_gated) for bend in (activation.activate, activation.activate_twin)))


def check_logits(dtype: torch.dtype, device: str) -> None:
    rows = 9 * random(3, 1100, dtype=dtype, device=device)
    for bias, multiplier, cap in (
        (None, 1.0, 0.0),
        (rows[0].clone(), 1.0, 0.0),
        (None, 0.125, 0.0),
        (rows[1], 2.0, 30.0),
    ):
        finished = logits.finish_logits(rows, bias, multiplier, cap)
        assert finished.dtype == torch.float32
        assert_near(finished, logits.finish_logits_twin(rows, bias, multiplier, cap))


def check_grouped(dtype: torch.dtype, device: str, kind: type[Int8Linear | Int4Linear]) -> None:
    """Fewer groups than a step has, and some more; outputs and rows that fill no program."""
    for width, width_out, counts in ((96, 70, (1, 3, 17)), (1120, 37, (1, 16, 40, 65, 130))):
        linear = kind(random(width_out, width, dtype=torch.float32, device=device))
        for count in counts:
            rows = random(count, width, dtype=dtype, device=device, seed=1) / width**0.5
            assert_near(grouped.grouped_product(linear, rows), grouped.grouped_product_twin(linear, rows))


HEADS: dict[str, dict[str, Any]] = {
    "as in Llama": {},
    "with biases": {"is_biased": True},
    "in part": {"turning": 10},
    "by neighbours, in part, with biases": {"turning": 16, "is_interleaved": True, "is_biased": True},
    "not at all": {"turning": 0, "is_biased": True},
    "normed by head": {"norm": Norm.RMS_FLOAT32, "is_normed": True},
    "normed by head, by neighbours": {"norm": Norm.RMS, "is_normed": True, "is_interleaved": True},
    "normed whole, with biases": {"norm": Norm.RMS, "is_normed": True, "is_whole": True, "is_biased": True},
    "centred by head, in part": {"norm": Norm.LAYER, "is_normed": True, "turning": 10, "is_biased": True},
    "centred whole, in part": {"norm": Norm.LAYER, "is_normed": True, "is_whole": True, "turning": 10},
}
"""What heads have done to them before attention, and how much of each turns."""


def make_heads(
    dtype: torch.dtype,
    device: str,
    heads: int,
    kv_heads: int,
    dim: int,
    turning: int = -1,
    is_biased: bool = False,
    is_normed: bool = False,
    norm: Norm = Norm.RMS,
    is_whole: bool = False,
    is_interleaved: bool = False,
) -> Heads:
    pairs = (dim if turning < 0 else turning) // 2
    angles = torch.arange(64)[:, None] * torch.rand(pairs, generator=torch.Generator().manual_seed(5))
    bias = random((heads + 2 * kv_heads) * dim, dtype=dtype, device=device, seed=3) if is_biased else None
    weight = norm_weight(norm, (heads + kv_heads) * dim, dtype=dtype, device=device) if is_normed else None
    tables = (angles.cos().to(device, dtype), angles.sin().to(device, dtype)) if pairs else (None, None)
    return Heads(dim, bias, weight, norm, 1e-5, is_whole, *tables, is_interleaved)


def check_rope(dtype: torch.dtype, device: str, kind: str, has_slot_biases: bool = False) -> None:
    """With biases that an adapter has of the norms of queries and keys, in layer 1, they are those of the third row."""
    heads, kv_heads, dim, rows = 14, 2, 24, 5
    table, own = slot_table.empty_table(2, 8, device).affine, []
    for name, count in (("q_norm", heads), ("k_norm", kv_heads)):
        own.append(random(2, count * dim, dtype=torch.float32, device=device, seed=len(name) + count))
        table[0, slot_table.INDEX[name]] = own[-1].data_ptr()
    biases = norm.SlotBiases(whole([-1, 1, 0, -1, 1], device), table, 0, 1) if has_slot_biases else None
    shifts = [_shift_row(2, bias[1]) for bias in own] if has_slot_biases else [norm.no_shift] * 2
    how = make_heads(dtype, device, heads, kv_heads, dim, **HEADS[kind])
    qkv = random(rows, (heads + 2 * kv_heads) * dim, dtype=dtype, device=device)
    positions, cache_slots = whole([0, 63, 7, 8, 0], device), whole([40, 3, 17, 0, -1], device)
    caches = torch.full((4, 3, 16, kv_heads, dim), 7.0, dtype=dtype, device=device)
    twin_qkv = qkv.clone()
    rope.rope_and_store(qkv, how, positions, cache_slots, caches[0], caches[1], biases)
    rope.rope_and_store_twin(twin_qkv, how, positions, cache_slots, caches[2], caches[3], (shifts[0], shifts[1]))
    queries = heads * dim
    assert_near(qkv[:, :queries], twin_qkv[:, :queries])
    assert_near(caches[0], caches[2])
    assert torch.equal(caches[1], caches[3])
    assert int((caches[1] != 7).any(-1).any(-1).sum()) == 4, "the padding row was written too"


def check_decode_attention(dtype: torch.dtype, device: str, how: Scores) -> None:
    """Contexts around the edges of steps and splits; what lies past a context is not a number."""
    contexts = [1, 17, 64, 65, 0, paged_attention.SPLIT, paged_attention.SPLIT + 70]
    splits = -(-max(contexts) // paged_attention.SPLIT)
    _check_attention(dtype, device, how, 1, [context - 1 for context in contexts], contexts, splits)


def check_splits(dtype: torch.dtype, device: str) -> None:
    """Short contexts give the same bits in a pass of their own as beside a long one."""
    kv_heads, dim, contexts = 2, 24, [1, 64, 65, paged_attention.SPLIT]
    caches = random(2, 4 * paged_attention.SPLIT // 16, 16, kv_heads, dim, dtype=dtype, device=device)
    tables = torch.arange(len(caches[0]), device=device, dtype=torch.int32).view(4, -1)
    qkv, outs = random(4, 8 * dim, dtype=dtype, device=device, seed=1), []
    for splits in (1, 2):
        place = whole([context - 1 for context in contexts], device), whole(contexts, device)
        outs.append(torch.zeros((4, 4 * dim), dtype=dtype, device=device))
        segments = paged_attention.Segments(0, 1, *place, tables, splits)
        paged_attention.attend(qkv, caches[0], caches[1], segments, Scores(), outs[-1])
    assert torch.equal(*outs)


def check_tile_attention(dtype: torch.dtype, device: str, how: Scores, heads: int = 6, dim: int = 24) -> None:
    """A first tile, a later one, a last one that is partly padding, and one that is nothing but padding.

    The last still says where some tile began once, as padding does when memory is used again.
    """
    _check_attention(dtype, device, how, TILE, [0, 96, 64, 96], [32, 128, 70, 0], heads=heads, dim=dim)


def _check_attention(
    dtype: torch.dtype,
    device: str,
    how: Scores,
    length: int,
    starts: list[int],
    contexts: list[int],
    splits: int = 1,
    heads: int = 6,
    dim: int = 24,
) -> None:
    kv_heads, block_size = 2, 16
    width = -(-max(contexts) // block_size)
    tables = torch.randperm(len(contexts) * width, generator=torch.Generator().manual_seed(3)).view(-1, width)
    caches = random(2, tables.numel(), block_size, kv_heads, dim, dtype=dtype, device=device)
    for table, context in zip(tables, contexts, strict=True):
        for position in range(context, width * block_size):
            caches[:, table[position // block_size], position % block_size] = float("nan")
        if not context:
            table.fill_(NOWHERE)
    segments = paged_attention.Segments(
        2, length, whole(starts, device), whole(contexts, device), tables.to(device, torch.int32), splits
    )
    rows = 2 + len(contexts) * length
    qkv = random(rows, (heads + 2 * kv_heads) * dim, dtype=dtype, device=device, seed=1)
    out, expected = (torch.full((rows, heads * dim), 7.0, dtype=dtype, device=device) for _ in range(2))
    paged_attention.attend(qkv, caches[0], caches[1], segments, how, out)
    paged_attention.attend_twin(qkv, caches[0], caches[1], segments, how, expected)
    written = torch.ones(rows, dtype=torch.bool)
    for index, (start, context) in enumerate(zip(starts, contexts, strict=True)):
        # What a padding row of a tile sees is nobody's.
        first = 2 + index * length
        written[first + max(context - start, 0) : first + length] = False
        if not context:
            assert not out[first : first + length].any()
    assert_near(out[written], expected[written])
    assert torch.isfinite(out).all()
    assert (out[:2] == 7).all(), "rows before the first segment are none of its business"


SHAPE = Architecture(
    vocab_size=11,
    hidden_size=536,
    intermediate_size=200,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=36,
    norm_eps=1e-5,
    max_position=64,
)


def make_pairs(
    dtype: torch.dtype, device: str, columns: range, is_int8: bool = False
) -> dict[int, dict[int, slot_table.Pair]]:
    """Adapters of several ranks in slots 0, 1 and 3, the last with magnitudes and biases; slot 2 is empty.

    The one in slot 1 leaves out every other target.
    """
    plans = {0: (8, columns), 1: (16, columns[::2]), 3: (64, columns)}
    return {
        slot: {column: _pair(rank, column, dtype, device, is_int8, slot == 3) for column in own}
        for slot, (rank, own) in plans.items()
    }


def _pair(rank: int, column: int, dtype: torch.dtype, device: str, is_int8: bool, is_affine: bool) -> slot_table.Pair:
    target = list(slot_table.INDEX)[column]
    (width_in, width_out), layers = SHAPE.target_shape(target), SHAPE.target_layers(target)
    a = random(layers, rank, width_in, dtype=dtype, device=device, seed=rank + column) / width_in**0.5
    b = random(layers, rank, width_out, dtype=dtype, device=device, seed=100 + rank + column) / rank**0.5
    rank_scales = None
    if is_int8:
        a, b, rank_scales = slot_table.quantize(a, b)
    affine = random(layers, 2, width_out, dtype=torch.float32, device=device, seed=rank) if is_affine else None
    return slot_table.Pair(a.transpose(1, 2).contiguous() if target == EMBEDDING else a, b, rank_scales, affine)


def make_table(
    pairs: dict[int, dict[int, slot_table.Pair]], device: str, is_int8: bool = False
) -> slot_table.SlotTable:
    """The table of `pairs`. What lies before its first row would be an adapter too, and its addresses lead nowhere."""
    whole_table = slot_table.empty_table(6, 64, device, is_int8)
    names = ("a", "b", "rank_scales", "affine")
    for name in names:
        getattr(whole_table, name)[0] = slot_table.entry(NOWHERE, 8 if name in "ab" else 0)
    table = replace(whole_table, **{name: getattr(whole_table, name)[1:] for name in names})
    for slot, targets in pairs.items():
        for column, pair in targets.items():
            table.a[slot, column] = slot_table.entry(pair.a.data_ptr(), pair.rank)
            table.b[slot, column] = slot_table.entry(pair.b.data_ptr(), pair.rank)
            for addresses, part in ((table.rank_scales, pair.rank_scales), (table.affine, pair.affine)):
                addresses[slot, column] = 0 if part is None else part.data_ptr()
    return table


def check_lora(dtype: torch.dtype, device: str, name: str, is_int8: bool = False) -> None:
    """Tiles of an adapter, of the base and of one that becomes active in it, then decode rows of all slots, of an empty
    one and of the base."""
    group = slot_table.groups(SHAPE)[name]
    pairs = make_pairs(dtype, device, range(group.first, group.first + group.count), is_int8)
    table = make_table(pairs, device, is_int8)
    tiles = [3] * TILE + [-1] * TILE + [-1] * 13 + [3] * (TILE - 13)
    slots = whole(tiles + [3, -1, 0, 1, 2, 0] * 3, device)
    rows = random(len(slots), group.width_in, dtype=dtype, device=device)
    base = random(len(slots), sum(group.widths), dtype=dtype, device=device, seed=1)
    out, expected, layer = base.clone(), base.clone(), 0 if name == "head" else SHAPE.num_layers - 1
    for part, length in ((slice(0, 3 * TILE), TILE), (slice(3 * TILE, None), 1)):
        buffer = lora.empty_buffer(rows[part], table, group)
        lora.shrink(buffer, rows[part], slots[part], table, group, layer, length)
        lora.expand(out[part], buffer, slots[part], table, group, layer, length)
    lora.add_lora_twin(expected, rows, slots, pairs, group, layer)
    _assert_updated(out, expected, base, slots)


def check_embedding(dtype: torch.dtype, device: str, is_int8: bool = False) -> None:
    group = slot_table.groups(SHAPE)["embedding"]
    pairs = make_pairs(dtype, device, range(group.first, group.first + 1), is_int8)
    slots, token_ids = whole([3, -1, 0, 1, 2], device), whole([4, 3, 10, 0, 5], device)
    base = random(5, SHAPE.hidden_size, dtype=dtype, device=device)
    out, expected = base.clone(), base.clone()
    lora.add_embedding(out, token_ids, slots, make_table(pairs, device, is_int8), group)
    lora.add_lora_twin(expected, token_ids, slots, pairs, group, 0)
    _assert_updated(out, expected, base, slots)


def _assert_updated(out: Tensor, expected: Tensor, base: Tensor, slots: Tensor) -> None:
    assert_near(out, expected)
    is_base = (slots == -1) | (slots == 2)
    assert torch.equal(out[is_base], base[is_base])
    assert not any(torch.equal(out[row], base[row]) for row in range(len(slots)) if not is_base[row])
