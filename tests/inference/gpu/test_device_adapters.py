"""Adapters in the slots of a GPU: what is packed, what a slot holds, and what it no longer holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need the package triton")

from inference.adapter_file import HostAdapter
from inference.gpu.adapters import DeviceSlots, PackedAdapter, SlotBank, pack, packing
from inference.kernels.lora import INDEX
from inference.layers.lora import TargetWeights


def adapter(digest: str, rank: int = 4, has_scale: bool = False) -> HostAdapter:
    generator = torch.Generator().manual_seed(len(digest))
    a, b = torch.randn(2, 24, rank, generator=generator), torch.randn(2, rank, 12, generator=generator)
    scale = torch.rand(2, 12) if has_scale else None
    return HostAdapter(digest, {"v_proj": TargetWeights(a, b, scale)}, rank, 1)


def part(packed: PackedAdapter, number: int, like: Tensor) -> Tensor:
    offset = packed.places[INDEX["v_proj"]].offsets[number]
    assert offset is not None
    return packed.memory[offset : offset + like.nbytes].view(like.dtype).view(like.shape)


def test_a_packed_adapter_holds_its_matrices_padded_to_the_bucket_of_their_rank() -> None:
    whole = adapter("it", rank=4, has_scale=True)
    packed, weights = pack(whole), whole.weights["v_proj"]
    assert packed.places[INDEX["v_proj"]].rank == 8
    a, b = part(packed, 0, torch.empty(2, 8, 24)), part(packed, 1, torch.empty(2, 8, 12))
    assert torch.equal(a[:, :4], weights.a.transpose(1, 2))
    assert torch.equal(b[:, :4], weights.b)
    assert not a[:, 4:].any()
    assert weights.scale is not None
    assert torch.equal(part(packed, 3, weights.scale), weights.scale)
    assert packed.num_bytes == packed.memory.nbytes


def test_int8_keeps_products_within_a_hundredth_of_their_size() -> None:
    whole = adapter("it", rank=8)
    packed, weights = pack(whole, is_int8=True), whole.weights["v_proj"]
    a, b = (part(packed, n, torch.empty(2, 8, width, dtype=torch.int8)).float() for n, width in ((0, 24), (1, 12)))
    unit = part(packed, 2, torch.empty(2, 8))
    expected = weights.a @ weights.b
    product = (a * unit.unsqueeze(-1)).transpose(1, 2) @ b
    assert (product - expected).abs().max() < 0.01 * expected.abs().max()
    assert packed.num_bytes < pack(whole).num_bytes


def test_a_slot_that_changes_hands_forgets_its_last_adapter() -> None:
    bank = SlotBank(1, 16, torch.device("cpu"))
    load = packing(lambda digest: adapter(digest, rank=len(digest)), is_int8=False, is_pinned=False)
    slots = DeviceSlots(bank, load)
    ranks = []
    for digest in ("one", "another one"):
        assert slots.acquire(digest) == 0
        slots.release(digest)
        ranks.append(int(bank.table.rank[0, INDEX["v_proj"]]))
    assert ranks == [8, 16]
    assert slots.digests == ("another one",)


def test_a_slot_is_had_when_its_adapter_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, arrived = SlotBank(1, 16, torch.device("cpu")), [False, True, True]
    monkeypatch.setattr(bank, "is_ready", lambda slot: arrived.pop(0))
    slots = DeviceSlots(bank, adapter)
    assert slots.acquire("it") is None
    assert (slots.digests, slots.num_pinned) == (("it",), 0)
    assert slots.acquire("it") == 0
    assert slots.num_pinned == 1


def test_a_rank_above_the_highest_is_not_let_in() -> None:
    bank = SlotBank(1, 16, torch.device("cpu"))
    with pytest.raises(AssertionError, match="rank 32 is above 16"):
        bank.put(0, adapter("it", rank=17))
