"""Adapters side by side under a gate: where parts lie, who is refused, and that a blend's identity is its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from blends import GATE, flow_gate, ramole_gate, ref_of
from engines import drain, make_reading_engine, make_tokenizer

from inference.adapters.blend import blend
from inference.adapters.file import AdapterRefused, HostAdapter
from inference.adapters.identity import blended_digest
from inference.adapters.packed_lora import pack_adapter
from inference.adapters.prototypes import prototypes
from inference.adapters.stored_gate import StoredGate
from inference.adapters.weights import TargetWeights
from inference.decoders.torch.gating import weighed
from inference.wire.protocol import AdapterRef, Component, GateRef, Generate, Sampling, decode, encode


def adapter(digest: str, rank: int = 3, targets: tuple[str, ...] = ("q_proj",), **more: bool) -> HostAdapter:
    """Random numbers in `rank` columns of 8, in two layers of 6 features in and 4 out."""
    random = torch.Generator().manual_seed(sum(map(ord, digest)))
    a, b = torch.zeros(2, 6, 8), torch.zeros(2, 8, 4)
    a[:, :, :rank] = torch.randn(2, 6, rank, generator=random)
    b[:, :rank] = torch.randn(2, rank, 4, generator=random)
    extra = {name: torch.ones(2, 4) for name in more}
    return HostAdapter(digest, {target: TargetWeights(a, b, **extra) for target in targets}, rank, 100)


ARROW = GateRef("arrow")


def put(*parts: HostAdapter, ref: GateRef = ARROW, stored: StoredGate | None = None) -> HostAdapter:
    digest, *_ = ref_of([part.digest for part in parts], ref)
    return blend(digest, [(part, 1.0) for part in parts], ref, stored, max_rank=14)


def test_each_part_begins_at_an_even_rank_and_one_without_the_target_has_none() -> None:
    pair = put(adapter("a"), adapter("b", targets=("v_proj",)), adapter("c", 5)).weights["q_proj"]
    assert pair.gate is not None
    assert (pair.rank, pair.gate.ends) == (16, (4, 4, 10))
    assert torch.equal(pair.a[:, :, :3], adapter("a").weights["q_proj"].a[:, :, :3])
    assert torch.equal(pair.b[:, 4:9], adapter("c", 5).weights["q_proj"].b[:, :5])
    assert not pair.a[:, :, [3, 9, 10, 15]].any()


def test_packing_keeps_the_gate_and_lays_its_columns_apart() -> None:
    pair = put(adapter("a"), adapter("c", 5)).weights["q_proj"]
    packed = pack_adapter({"q_proj": pair})["q_proj"].gate
    assert packed is not None
    assert pair.gate is not None
    assert torch.equal(packed.projection, pair.gate.projection)
    assert packed.projection.mT.is_contiguous()


def test_bytes_of_a_gate_that_all_targets_share_are_counted_once() -> None:
    parts = [adapter(name, targets=("q_proj", "v_proj")) for name in "ab"]
    gate = flow_gate(["a", "b"], 2, 6)
    whole = put(*parts, ref=GateRef("flow", digest=GATE), stored=gate)
    pairs = sum(tensor.nbytes for pair in whole.weights.values() for tensor in (pair.a, pair.b))
    assert whole.num_bytes == pairs + sum(tensor.nbytes for tensor in gate.tensors.values())


@pytest.mark.parametrize(
    ("part", "named"),
    [
        (adapter("b", scale=True), "b is a DoRA"),
        (replace(adapter("b"), is_activated=True), "b is an aLoRA"),
        (adapter("b", bias=True), "b has biases, which no gate weighs"),
        (adapter("b", targets=("q_proj", "lm_head")), "b changes lm_head; a gate weighs"),
        (adapter("b", 8), "add up to 20, above 14"),
    ],
)
def test_parts_that_no_gate_can_weigh_are_refused(part: HostAdapter, named: str) -> None:
    parts = (adapter("a", 5), part, adapter("c", 6)) if "add up" in named else (adapter("a"), part)
    with pytest.raises(AdapterRefused, match=named):
        put(*parts)


@pytest.mark.parametrize(
    ("ref", "stored", "named"),
    [
        (GateRef("flow", digest=GATE), flow_gate(["b", "a"], 2, 6), "made for b, a, in this order, and not for a, b"),
        (GateRef("flow", digest=GATE), flow_gate(["a", "b"], 3, 6), "has 3 layers, and the base 2"),
        (GateRef("ramole", digest=GATE), flow_gate(["a", "b"], 2, 6), "of the kind flow, and ramole was asked for"),
        (GateRef("ramole", digest=GATE), ramole_gate({"v_proj": (6, 4)}, 2), "no A_r and B_r for q_proj"),
        (GateRef("ramole", digest=GATE), ramole_gate({"q_proj": (5, 4)}, 2), r"A_r is \[4, 5\], and \[4, 6\] in"),
        (GateRef("flow", 2, digest=GATE), flow_gate(["a", "b"], 2, 6), "own settings hold; leave out top_k"),
        (GateRef("arrow", temperature=0.0), None, "temperature 0; the one is 0 or more, the other above 0"),
        (GateRef("flow"), None, "of the kind flow comes with tensors of its own"),
        (GateRef("arrow", digest=GATE), flow_gate(["a", "b"], 2, 6), "of the kind arrow has no tensors of its own"),
    ],
)
def test_a_gate_that_is_not_for_these_parts_is_refused(ref: GateRef, stored: StoredGate | None, named: str) -> None:
    with pytest.raises(AdapterRefused, match=named):
        put(adapter("a"), adapter("b"), ref=ref, stored=stored)


def test_a_blend_under_a_foreign_identity_or_with_weights_is_refused() -> None:
    with pytest.raises(AdapterRefused, match="not the identity"):
        blend(blended_digest(["a"], "arrow", 0, 1.0, ""), [(adapter("a"), 1.0)], GateRef("arrow", 1), None, 64)
    with pytest.raises(AdapterRefused, match="comes with the weight 1"):
        blend("d", [(adapter("a"), 0.5)], GateRef("arrow"), None, 64)


def test_the_identity_of_a_blend_follows_parts_order_kind_settings_and_tensors() -> None:
    told = [
        (["a", "b"], "arrow", 0, 1.0, ""),
        (["b", "a"], "arrow", 0, 1.0, ""),
        (["a", "b"], "arrow", 1, 1.0, ""),
        (["a", "b"], "arrow", 0, 0.5, ""),
        (["a", "b"], "flow", 0, 1.0, "c"),
        (["a", "b"], "flow", 0, 1.0, "d"),
    ]
    assert len({blended_digest(*each) for each in told}) == len(told)


def test_a_prototype_is_the_first_singular_vector_of_the_update() -> None:
    pair = adapter("a").weights["q_proj"]
    found = prototypes(pair.a, pair.b)
    for layer in range(2):
        first = torch.linalg.svd(pair.a[layer].double() @ pair.b[layer].double()).U[:, 0].float()
        assert torch.allclose(found[layer], first * (found[layer] @ first).sign(), atol=1e-6)
    assert not prototypes(pair.a, torch.zeros_like(pair.b)).any()


def test_other_orders_of_the_parts_give_the_same_coefficients_in_that_order() -> None:
    parts = [adapter(name) for name in "abc"]
    rows = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    found = []
    for order in ([0, 1, 2], [2, 0, 1]):
        gate = put(*(parts[part] for part in order)).weights["q_proj"].gate
        assert gate is not None
        coefficients = weighed(gate, 1, torch.ones(5, 16), rows)[0][:, [0, 4, 8]]
        found.append(torch.stack([coefficients[:, order.index(part)] for part in range(3)]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=0)
    assert torch.allclose(found[0].sum(0), torch.ones(5))


def test_a_gate_that_was_asked_has_the_same_tensors() -> None:
    stored = ramole_gate({"q_proj": (6, 4)}, 2)
    gate = put(adapter("a"), adapter("b"), ref=GateRef("ramole", digest=GATE), stored=stored).weights["q_proj"].gate
    assert gate is not None
    weighed(gate, 0, torch.ones(1, 8), torch.ones(1, 6))
    assert list(gate.tensors) == ["projection", "keys"]


def test_of_equal_scores_the_first_part_is_chosen() -> None:
    gate = put(adapter("a"), adapter("a"), adapter("a"), ref=GateRef("arrow", 1)).weights["q_proj"].gate
    assert gate is not None
    assert weighed(gate, 0, torch.ones(1, 16), torch.ones(1, 6))[0][0, [0, 4, 8]].tolist() == [1, 0, 0]


def test_the_wire_carries_a_gate_and_reads_entries_from_before_there_were_any() -> None:
    digest, components, gate = ref_of(["a", "b"], GateRef("arrow", 1, 0.5))
    request = Generate("one", AdapterRef(digest, components=components, gate=gate), prompt="hi")
    assert decode(encode(request)) == request
    old = '{"kind":"generate","id":"one","adapter":{"digest":"d","components":[{"digest":"a","weight":0.5}]}}'
    assert decode(old).adapter == AdapterRef("d", components=(Component("a", 0.5),))


def test_an_engine_answers_with_a_blend_and_names_the_gate_that_is_missing(tmp_path: Path) -> None:
    engine = make_reading_engine(make_tokenizer(tmp_path))
    for gate in (GateRef("arrow"), GateRef("flow", digest=GATE)):
        digest, components, _ = ref_of(["a", "b"], gate)
        adapter = AdapterRef(digest, components=components, gate=gate)
        engine.add(Generate("one", adapter, prompt="hi", sampling=Sampling(max_tokens=2)))
        record = drain(engine)["one"]
        if gate.digest:
            assert "The gate 999999999999 is not stored on this worker" in record.failed.error
        else:
            assert record.finished.stats.digest == digest
    engine.close()
