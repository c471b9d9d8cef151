"""Which kernels a pass can do without: those of products that none of its adapters changes."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need the package triton")

from inference.adapters.weights import AdapterWeights, TargetWeights
from inference.decoders.gpu.bank import SlotBank
from inference.decoders.gpu.target_modules import TargetModules, target_modules
from inference.model.architecture import EMBEDDING, HEAD, TARGETS


def adapter(*targets: str) -> AdapterWeights:
    pairs = {target: TargetWeights(torch.ones(1, 16, 4), torch.ones(1, 4, 16)) for target in targets}
    return AdapterWeights(pairs)


def test_the_least_that_has_all_targets() -> None:
    assert target_modules([]) is TargetModules.NONE
    assert target_modules(["v_proj"]) is target_modules(TARGETS[:3]) is TargetModules.QKV
    for other in (*TARGETS[3:], EMBEDDING, HEAD):
        assert target_modules(["q_proj", other]) is TargetModules.ALL
    assert target_modules(["q_proj", "attention_norm"]) is TargetModules.NORMS
    assert target_modules(["q_proj"], is_gated=True) is TargetModules.GATED


def test_what_is_left_out_is_what_nobody_changes() -> None:
    products = ("embedding", "qkv", "o", "gate_up", "down", "head")
    assert [TargetModules.NONE.includes(product) for product in products] == [False] * 6
    assert [product for product in products if TargetModules.QKV.includes(product)] == ["qkv"]
    assert all(all(kind.includes(product) for product in products) for kind in (TargetModules.ALL, TargetModules.NORMS))
    assert [kind for kind in TargetModules if kind.includes("norms")] == [TargetModules.NORMS, TargetModules.GATED]
    assert [kind for kind in TargetModules if kind.includes("gates")] == [TargetModules.GATED]


def test_the_adapters_of_a_pass_change_what_any_of_them_changes_and_a_slot_forgets() -> None:
    bank = SlotBank(3, 16, torch.device("cpu"))
    bank.put(0, adapter("q_proj", "v_proj"))
    bank.put(1, adapter("down_proj"))
    assert bank.targets([-1, 2]) is bank.targets([]) is TargetModules.NONE
    assert bank.targets([-1, 0]) is TargetModules.QKV
    assert bank.targets([0, 1]) is TargetModules.ALL
    bank.clear(1)
    bank.put(1, adapter("k_proj"))
    assert bank.targets([0, 1]) is TargetModules.QKV
