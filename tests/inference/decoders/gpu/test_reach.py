"""Which kernels a pass can do without: those of products that none of its adapters changes."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need the package triton")

from inference.adapters.weights import AdapterWeights, TargetWeights
from inference.decoders.gpu.bank import SlotBank
from inference.decoders.gpu.reach import Reach, reach_of
from inference.model.architecture import EMBEDDING, HEAD, TARGETS


def adapter(*targets: str) -> AdapterWeights:
    pairs = {target: TargetWeights(torch.ones(1, 16, 4), torch.ones(1, 4, 16)) for target in targets}
    return AdapterWeights(pairs)


def test_the_least_that_has_all_targets() -> None:
    assert reach_of([]) is Reach.NOTHING
    assert reach_of(["v_proj"]) is reach_of(TARGETS[:3]) is Reach.QKV
    for other in (*TARGETS[3:], EMBEDDING, HEAD):
        assert reach_of(["q_proj", other]) is Reach.EVERYTHING


def test_what_is_left_out_is_what_nobody_changes() -> None:
    products = ("embedding", "qkv", "o", "gate_up", "down", "head")
    assert [Reach.NOTHING.covers(product) for product in products] == [False] * 6
    assert [product for product in products if Reach.QKV.covers(product)] == ["qkv"]
    assert all(Reach.EVERYTHING.covers(product) for product in products)


def test_the_adapters_of_a_pass_reach_as_far_as_the_furthest_and_a_slot_forgets() -> None:
    bank = SlotBank(3, 16, torch.device("cpu"))
    bank.put(0, adapter("q_proj", "v_proj"))
    bank.put(1, adapter("down_proj"))
    assert bank.reach([-1, 2]) is bank.reach([]) is Reach.NOTHING
    assert bank.reach([-1, 0]) is Reach.QKV
    assert bank.reach([0, 1]) is Reach.EVERYTHING
    bank.clear(1)
    bank.put(1, adapter("k_proj"))
    assert bank.reach([0, 1]) is Reach.QKV
