"""What is told of a gate: of each sampled row the mean of its coefficients, as the slow program adds them up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from blends import Weigh, blended, by_arrow, by_flow, by_ramole, flow_gate, ramole_gate, ref_of
from checkpoints import load_base, load_decoder, load_reference, make_adapter, make_model
from passes import Chunk, Passes, answer
from torch import Tensor

from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterCache, AdapterStore
from inference.decoders.native.bank import NativeBank
from inference.decoders.native.build import library_path, missing_feature
from inference.decoders.native.decoder import NativeDecoder
from inference.model.architecture import TARGETS
from inference.model.weights import load_weights
from inference.wire.protocol import GateRef

FLOW, RAMOLE = GateRef("flow", digest="9" * 64), GateRef("ramole", digest="8" * 64)
PARTS: list[dict[str, Any]] = [
    {"r": 3, "target_modules": list(TARGETS)},
    {"r": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], "layers_to_transform": [1]},
]


class World:
    def __init__(self, home: Path) -> None:
        self.model, self.store = make_model(home / "tiny", num_hidden_layers=2), home / "adapters"
        self.store.mkdir()
        self.digests = [make_adapter(self.model, self.store, 700 + at, **options) for at, options in enumerate(PARTS)]
        decoder = load_decoder(self.model)
        arch = decoder.architecture
        self.flow = flow_gate(self.digests, arch.num_layers, arch.hidden_size)
        self.ramole = ramole_gate({target: arch.target_shape(target) for target in TARGETS}, arch.num_layers)
        self.place(decoder)

    def place(self, decoder: Any, is_packed: bool = False) -> None:
        """Let `decoder` have the slots."""
        gates = {FLOW.digest: self.flow, RAMOLE.digest: self.ramole}
        load = AdapterStore(self.store, replace(load_base(self.model), is_packed=is_packed)).load
        self.decoder = decoder
        self.cache = AdapterCache(load, 2**30, 64, decoder.bank.prepare, gates.__getitem__)
        self.slots = LoraSlots(8, self.cache.load, decoder.bank)

    def slot(self, gate: GateRef | None) -> int:
        digest = self.cache.load(*ref_of(self.digests, gate)).digest if gate else self.digests[0]
        slot = self.slots.acquire(digest)
        assert slot is not None
        return slot


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("told"))


def kinds(world: World) -> list[tuple[GateRef, Weigh]]:
    return [
        (GateRef("arrow"), by_arrow(0, 1.0)),
        (GateRef("arrow", 1), by_arrow(1, 1.0)),
        (FLOW, by_flow(world.flow)),
        (RAMOLE, by_ramole(world.ramole)),
    ]


def prompts(count: int) -> list[list[int]]:
    random = torch.Generator().manual_seed(5)
    return [torch.randint(0, 131, (36 + index,), generator=random).tolist() for index in range(count)]


def told(decoder: Any, slots: list[int], texts: list[list[int]], **options: Any) -> list[Tensor]:
    """What the decoder tells of each row of the texts, the last three tokens of each one by one."""
    passes = Passes(decoder, **options)
    known = [passes.sequence(slot) for slot in slots]
    passes.run(*(Chunk(one, text[:-3]) for one, text in zip(known, texts, strict=True)))
    found = [[*decoder.coefficients.split([len(text) - 3 for text in texts])]] if len(decoder.coefficients) else []
    for at in (-3, -2, -1):
        passes.run(*(Chunk(one, [text[at]], False) for one, text in zip(known, texts, strict=True)))
        found += [[*decoder.coefficients.split(1)]] if len(decoder.coefficients) else []
    return [torch.cat(rows) for rows in zip(*found, strict=True)]


def by_hand(world: World, weigh: Weigh, text: list[int]) -> Tensor:
    """The mean over layers and targets of what `weigh` says of each row: [rows, parts]."""
    said: dict[tuple[int, str], list[Tensor]] = {}

    def noted(layer: int, target: str, row: Tensor, residual: Tensor, updates: list[Tensor]) -> Tensor:
        coefficients = weigh(layer, target, row, residual, updates)
        said.setdefault((layer, target), []).append(coefficients)
        return coefficients

    model = blended(load_reference(world.model), [world.store / digest for digest in world.digests], noted)
    with torch.no_grad():
        model(torch.tensor([text]))
    return torch.stack([torch.stack(rows) for rows in said.values()]).mean(0)


def test_each_row_is_told_with_the_mean_over_layers_and_targets_and_rows_of_no_blend_with_nothing(world: World) -> None:
    asked = kinds(world)
    slots = [-1, *(world.slot(gate) for gate, _ in asked), world.slot(None)]
    texts = prompts(len(slots))
    found = told(world.decoder, slots, texts)
    assert all(found[row].isnan().all() for row in (0, -1)), "the base and a plain adapter"
    for row, (_, weigh) in enumerate(asked, 1):
        torch.testing.assert_close(found[row][:, :2], by_hand(world, weigh, texts[row]), atol=2e-4, rtol=0)
        assert not found[row][:, 2:].any(), "there are two parts"


def test_the_native_decoder_tells_the_same_and_a_row_what_it_tells_alone(world: World) -> None:
    if missing_feature() is not None:
        pytest.skip(f"not here: {missing_feature()}")
    architecture = world.decoder.architecture
    weights = load_weights(world.model, architecture, torch.float32)
    decoder = NativeDecoder(architecture, weights, NativeBank(8), library_path(), 32, 2)
    packed = World.__new__(World)
    vars(packed).update(vars(world))
    packed.place(decoder, is_packed=True)
    texts, options = prompts(6), {"block_size": 32, "dtype": torch.float32}
    slots = [[-1, *(each.slot(gate) for gate, _ in kinds(world)), each.slot(None)] for each in (packed, world)]
    found = told(decoder, slots[0], texts, **options)
    for mine, true in zip(found, told(world.decoder, slots[1], texts), strict=True):
        torch.testing.assert_close(mine, true, atol=2e-4, rtol=0, equal_nan=True)
    for row in range(1, 5):
        (alone,) = told(decoder, slots[0][row : row + 1], texts[row : row + 1], **options)
        assert torch.equal(alone, found[row])


def test_a_pass_without_a_blend_tells_nothing_and_what_is_told_changes_no_bit(world: World) -> None:
    text, plain = prompts(2), world.slot(None)
    beside, _ = answer(Passes(world.decoder), text, [plain, world.slot(GateRef("arrow"))], 3)
    alone = load_decoder(world.model)
    slot = LoraSlots(1, world.cache.load, alone.bank).acquire(world.digests[0])
    assert slot is not None
    logits, _ = answer(Passes(alone), text[:1], [slot], 3)
    assert torch.equal(logits[0], beside[0])
    assert not len(alone.coefficients)


def test_a_gate_that_chooses_one_part_everywhere_is_told_as_one_and_nothing(world: World) -> None:
    """Of two that are the same the first is chosen."""
    digests = [world.digests[0], world.digests[0]]
    slot = world.slots.acquire(world.cache.load(*ref_of(digests, GateRef("arrow", 1))).digest)
    assert slot is not None
    (rows,) = told(world.decoder, [slot], prompts(1))
    assert rows[:, :2].unique(dim=0).tolist() == [[1, 0]]
