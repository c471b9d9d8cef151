"""Adapters in the slots of a GPU: what is packed, what a slot holds, and what it no longer holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need the package triton")

from inference.adapters.file import HostAdapter
from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterCache
from inference.adapters.weights import AdapterWeights, TargetWeights
from inference.decoders.gpu.bank import PackedWeights, SlotBank
from inference.decoders.gpu.kernels.slot_table import BUCKETS, INDEX, RANK_BIT, entry
from inference.decoders.gpu.target_modules import TargetModules
from inference.model.architecture import EMBEDDING

CPU = torch.device("cpu")


def weights(rank: int = 4, target: str = "v_proj", has_scale: bool = False) -> AdapterWeights:
    generator = torch.Generator().manual_seed(rank)
    a, b = torch.randn(2, 24, rank, generator=generator), torch.randn(2, rank, 12, generator=generator)
    return {target: TargetWeights(a, b, torch.rand(2, 12) if has_scale else None)}


def part(packed: PackedWeights, number: int, like: Tensor) -> Tensor:
    (place,) = packed.places.values()
    offset = place.offsets[number]
    assert offset is not None
    return packed.memory[offset : offset + like.nbytes].view(like.dtype).view(like.shape)


@pytest.mark.parametrize("target", ["v_proj", EMBEDDING])
def test_packed_weights_are_the_weights_padded_to_the_bucket_of_their_rank(target: str) -> None:
    (whole,) = weights(4, target, has_scale=True).values()
    packed = PackedWeights({target: whole})
    assert packed.places[INDEX[target]].rank == 8
    a = part(packed, 0, torch.empty(2, 24, 8)) if target == EMBEDDING else part(packed, 0, torch.empty(2, 8, 24)).mT
    assert torch.equal(a[:, :, :4], whole.a)
    assert not a[:, :, 4:].any()
    assert torch.equal(packed[target].a, a)
    assert torch.equal(packed[target].b[:, :4], whole.b)
    assert packed[target].b.data_ptr() == part(packed, 1, packed[target].b).data_ptr()
    magnitudes, biases = part(packed, 3, torch.empty(2, 2, 12)).unbind(1)
    assert torch.equal(magnitudes, whole.scale)
    assert not biases.any()
    assert torch.equal(packed[target].scale, whole.scale)
    assert packed[target].bias is None


def test_a_bias_lies_behind_magnitudes_of_1_and_that_of_a_norm_alone() -> None:
    bias = torch.rand(2, 12)
    empty = TargetWeights(torch.zeros(2, 24, 0), torch.zeros(2, 0, 12), bias=bias)
    for target, expected in (("v_proj", torch.stack((torch.ones(2, 12), bias), dim=1)), ("mlp_norm", bias[:, None])):
        packed = PackedWeights({target: empty})
        assert torch.equal(part(packed, 3, expected), expected)
        assert packed.places[INDEX[target]].rank == (0 if target == "mlp_norm" else BUCKETS[0])
        assert torch.equal(packed[target].bias, bias)
        assert packed[target].scale is None


def test_int8_keeps_products_within_a_hundredth_of_their_size() -> None:
    whole = weights(8)
    packed, pair = PackedWeights(whole, is_int8=True), whole["v_proj"]
    a, b = (part(packed, n, torch.empty(2, 8, width, dtype=torch.int8)).float() for n, width in ((0, 24), (1, 12)))
    unit = part(packed, 2, torch.empty(2, 8))
    expected = pair.a @ pair.b
    assert ((a * unit.unsqueeze(-1)).mT @ b - expected).abs().max() < 0.01 * expected.abs().max()
    assert packed.memory.nbytes < PackedWeights(whole).memory.nbytes
    assert packed["v_proj"] is pair


def test_what_the_cache_keeps_is_packed_already() -> None:
    load = AdapterCache(
        lambda digest: HostAdapter(digest, weights(), 4, 1), 10, prepare=SlotBank(1, 16, CPU).prepare
    ).load
    assert isinstance(load("it").weights, PackedWeights)
    assert load("it").weights is load("it").weights


def test_a_slot_that_changes_hands_forgets_its_last_adapter() -> None:
    bank = SlotBank(1, 16, CPU)
    slots = LoraSlots(1, lambda digest: HostAdapter(digest, weights(len(digest), digest), 4, 1), bank)
    ranks, targets = [], []
    for digest in ("q_proj", "down_proj"):
        assert slots.acquire(digest) == 0
        slots.release(digest)
        for table in (bank.table.a, bank.table.b):
            ranks.append((table[0, [INDEX["q_proj"], INDEX["down_proj"]]] >> RANK_BIT).tolist())
        targets.append(bank.targets([0]))
    assert ranks == [[8 // BUCKETS[0], 0]] * 2 + [[0, 16 // BUCKETS[0]]] * 2
    assert targets == [TargetModules.QKV, TargetModules.ALL]


def test_an_entry_holds_the_longest_address_and_the_highest_rank() -> None:
    address = (1 << RANK_BIT) - 16
    both = entry(address, 512)
    assert both < 2**63
    assert (both >> RANK_BIT, both % (1 << RANK_BIT)) == (512 // BUCKETS[0], address)
    for wrong in ((address, 12), (1 << RANK_BIT, 8), (address + 8, 8)):
        with pytest.raises(AssertionError):
            entry(*wrong)


def test_a_slot_is_had_when_its_adapter_has_arrived_and_is_not_taken_away_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank, arrived = SlotBank(1, 16, CPU), [False]
    monkeypatch.setattr(bank, "is_ready", lambda slot: arrived[0])
    slots = LoraSlots(1, lambda digest: HostAdapter(digest, weights(), 4, 1), bank)
    assert slots.acquire("first") is None
    assert slots.acquire("second") is None
    assert (slots.digests, slots.num_pinned) == (("first",), 0)
    arrived[0] = True
    assert slots.acquire("first") == 0
    assert not slots.can_acquire("second")


def test_a_rank_above_the_highest_is_not_let_in() -> None:
    with pytest.raises(AssertionError, match="rank 32 is above 16"):
        SlotBank(1, 16, CPU).put(0, weights(17))
