"""Blends of every kind in one batch with other adapters, beside the slow program that computes them alone."""

from __future__ import annotations

from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from blends import GATE, Weigh, blended, by_arrow, by_flow, by_ramole, flow_gate, ramole_gate, ref_of
from checkpoints import load_base, load_decoder, load_reference, make_adapter
from passes import Passes, answer
from peft import ArrowConfig, PeftModel, create_arrow_model
from peft.tuners.lora.arrow import ArrowLoraLinearLayer
from torch import Tensor

from inference.adapters.identity import composed_digest
from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterCache, AdapterStore
from inference.adapters.stored_gate import StoredGate
from inference.decoders.torch.decoder import TorchDecoder
from inference.model.architecture import TARGETS
from inference.wire.protocol import Component, GateRef

pytestmark = pytest.mark.slow

ALL = list(TARGETS)
OPTIONS: list[dict[str, Any]] = [
    {"r": 3, "target_modules": ALL},
    {"r": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], "lora_alpha": 20},
    {"r": 5, "target_modules": ALL, "layers_to_transform": [0, 2]},
    {"r": 4, "target_modules": ALL, "use_dora": True},
]
NUM_TOKENS = 3


def prompts(count: int) -> list[list[int]]:
    random = torch.Generator().manual_seed(5)
    return [torch.randint(0, 131, (20 + 3 * index,), generator=random).tolist() for index in range(count)]


def reference_logits(model: Any, prompt: list[int], reply: list[int]) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([prompt + reply[:-1]])).logits[0, len(prompt) - 1 :]


class World:
    """A tiny model, adapters of several ranks and extents, and gates for the first three."""

    def __init__(self, model: Path, store: Path) -> None:
        self.model, self.store = model, store
        self.digests = [make_adapter(model, store, 300 + at, **options) for at, options in enumerate(OPTIONS)]
        self.decoder: TorchDecoder = load_decoder(model)
        arch = self.decoder.architecture
        shapes = {target: arch.target_shape(target) for target in TARGETS}
        self.flow = flow_gate(self.digests[:3], arch.num_layers, arch.hidden_size)
        self.ramole = ramole_gate(shapes, arch.num_layers)
        self.gates: dict[str, StoredGate] = {GATE: self.flow, "8" * 64: self.ramole}
        load = AdapterStore(store, load_base(model)).load
        self.cache = AdapterCache(load, 2**30, load_gate=self.gates.__getitem__)
        self.slots = LoraSlots(16, self.cache.load, self.decoder.bank)

    def paths(self, parts: list[int]) -> list[Path]:
        return [self.store / self.digests[part] for part in parts]

    def slot(self, parts: list[int], gate: GateRef | None = None) -> int:
        """Where an adapter, or the blend of several, is."""
        digests = [self.digests[part] for part in parts]
        digest = self.cache.load(*ref_of(digests, gate)).digest if gate else digests[0]
        slot = self.slots.acquire(digest)
        assert slot is not None
        return slot

    def sum(self, weights: dict[int, float]) -> int:
        components = tuple(Component(self.digests[part], weight) for part, weight in weights.items())
        digest = composed_digest((part.digest, part.weight) for part in components)
        slot = self.slots.acquire(self.cache.load(digest, components).digest)
        assert slot is not None
        return slot


@pytest.fixture(scope="module")
def world(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tiny_model, tmp_path_factory.mktemp("blends"))


FLOW, RAMOLE = GateRef("flow", digest=GATE), GateRef("ramole", digest="8" * 64)


def blends(world: World) -> list[tuple[list[int], GateRef, Weigh]]:
    return [
        ([0, 1, 2], GateRef("arrow"), by_arrow(0, 1.0)),
        ([2, 1, 0], GateRef("arrow", 1), by_arrow(1, 1.0)),
        ([1, 0, 2], GateRef("arrow", 2, 0.5), by_arrow(2, 0.5)),
        ([0, 1, 2], FLOW, by_flow(world.flow)),
        ([1, 2], RAMOLE, by_ramole(world.ramole)),
        ([0, 2, 1], RAMOLE, by_ramole(world.ramole)),
    ]


def test_blends_of_every_kind_in_one_batch_with_others_equal_the_slow_program(world: World) -> None:
    asked = blends(world)
    rows = [-1, *(world.slot(parts, gate) for parts, gate, _ in asked), world.slot([3]), world.sum({0: 0.5, 1: 1.5})]
    texts = prompts(len(rows))
    logits, replies = answer(Passes(world.decoder), texts, rows, NUM_TOKENS)
    for row, (parts, _, weigh) in enumerate(asked, 1):
        slow = blended(load_reference(world.model), world.paths(parts), weigh)
        expected = reference_logits(slow, texts[row], replies[row])
        torch.testing.assert_close(logits[row], expected, atol=1e-3, rtol=0)
        assert replies[row] == expected.argmax(-1).tolist()
    dora = PeftModel.from_pretrained(load_reference(world.model), world.store / world.digests[3]).eval()
    at = len(rows) - 2
    torch.testing.assert_close(logits[at], reference_logits(dora, texts[at], replies[at]), atol=1e-4, rtol=0)
    alone, _ = answer(Passes(world.decoder), texts[:1], [-1], NUM_TOKENS)
    assert torch.equal(logits[0], alone[0])


def test_a_gate_that_chooses_differs_from_one_that_does_not(world: World) -> None:
    text = prompts(1)
    found = [answer(Passes(world.decoder), text, [world.slot(parts, gate)], 1)[0] for parts, gate, _ in blends(world)]
    for at, logits in enumerate(found):
        assert all((logits - other).abs().max() > 1e-2 for other in found[at + 1 : 3] + found[max(at + 1, 3) :])


def test_arrow_equals_pefts_with_many_iterations(tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Mixed ranks and extents are refused by PEFT, so these are alike."""
    digests = [make_adapter(tiny_model, tmp_path, 400 + at, r=4, target_modules=ALL) for at in range(3)]
    decoder = load_decoder(tiny_model)
    cache = AdapterCache(AdapterStore(tmp_path, load_base(tiny_model)).load, 2**30)
    slots = LoraSlots(4, cache.load, decoder.bank)
    power = ArrowLoraLinearLayer.top_right_singular_vec_from_BA
    monkeypatch.setattr(ArrowLoraLinearLayer, "top_right_singular_vec_from_BA", partialmethod(power, iters=2000))
    config = ArrowConfig(top_k=2, router_temperature=0.7, rng_seed=1)
    paths = [str(tmp_path / digest) for digest in digests]
    judge = create_arrow_model(load_reference(tiny_model), paths, config).eval()
    slot = slots.acquire(cache.load(*ref_of(digests, GateRef("arrow", 2, 0.7))).digest)
    assert slot is not None
    text = prompts(1)
    logits, replies = answer(Passes(decoder), text, [slot], NUM_TOKENS)
    torch.testing.assert_close(logits[0], reference_logits(judge, text[0], replies[0]), atol=2e-3, rtol=0)


def test_equal_keys_make_the_uniform_sum(world: World) -> None:
    still = {
        name: torch.zeros_like(tensor) if name.endswith("A_r") else tensor
        for name, tensor in world.ramole.tensors.items()
    }
    world.gates["7" * 64] = StoredGate("ramole", still)
    slot, uniform = world.slot([0, 1], GateRef("ramole", digest="7" * 64)), world.sum({0: 0.5, 1: 0.5})
    logits, _ = answer(Passes(world.decoder), prompts(1) * 2, [slot, uniform], NUM_TOKENS)
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=0)


def test_a_gate_of_lora_flow_as_it_begins_is_the_task_adapter(world: World) -> None:
    arch = world.decoder.architecture
    tensors = {}
    for layer in range(arch.num_layers):
        tensors[f"layers.{layer}.weight"] = torch.zeros(2, arch.hidden_size)
        tensors[f"layers.{layer}.bias"] = torch.tensor([-0.5, 0.5])
    world.gates["6" * 64] = StoredGate("flow", tensors)
    rows = [world.slot([0, 1], GateRef("flow", digest="6" * 64)), world.slot([1])]
    logits, _ = answer(Passes(world.decoder), prompts(1) * 2, rows, NUM_TOKENS)
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=0)
