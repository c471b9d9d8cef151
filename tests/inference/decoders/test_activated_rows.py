"""Rows of activated adapters (aLoRA) on a CPU's decoders: the base's before the invocation, theirs from there on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from inference.adapters.invocation import place_of
from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterCache, AdapterStore
from inference.decoders.contract import Decoder
from inference.decoders.native.bank import NativeBank
from inference.decoders.native.build import library_path, missing_feature
from inference.decoders.native.decoder import NativeDecoder
from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import TARGETS, read_architecture
from inference.model.weights import load_weights
from inference.tile import TILE
from tests.inference.checkpoints import load_base, load_reference, make_adapter, make_model
from tests.inference.passes import Chunk, Passes, Sequence

pytestmark = pytest.mark.slow

INVOCATION = (7, 8, 9)
ADAPTERS: list[dict[str, Any]] = [
    {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    {"target_modules": list(TARGETS), "use_dora": True},
    {"target_modules": list(TARGETS), "alora_invocation_tokens": list(INVOCATION), "task_type": "CAUSAL_LM"},
    {
        "target_modules": ["k_proj", "down_proj", "lm_head"],
        "lora_bias": True,
        "alora_invocation_tokens": [7],
        "task_type": "CAUSAL_LM",
    },
]
PLAIN, DORA, ALORA, OTHER = range(len(ADAPTERS))
PLACES = (0, 31, 45)
"""Where an adapter becomes active: in the first row of a tile, in the last, and within one."""
NUM_TOKENS = 90


@dataclass
class World:
    """A tiny model on one decoder, and the slots of its adapters."""

    model: Path
    store: Path
    digests: list[str]
    decoder: Decoder
    slots: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        bank = self.decoder.bank
        base = load_base(self.model)
        base = base if not bank.is_packed else type(base)(**{**vars(base), "is_packed": True})
        load = AdapterCache(AdapterStore(self.store, base).load, 2**30, prepare=bank.prepare).load
        slots = LoraSlots(len(ADAPTERS), load, bank)
        self.slots = [slot for digest in self.digests if (slot := slots.acquire(digest)) is not None]

    def passes(self) -> Passes:
        return Passes(self.decoder, 96, 32, torch.float32)

    def reading(self, passes: Passes, which: int, active_from: int = 0) -> Sequence:
        sequence = passes.sequence(self.slots[which] if which >= 0 else -1)
        sequence.active_from = active_from
        return sequence


def by_torch(model: Path) -> Decoder:
    architecture = read_architecture(model / "config.json")
    return TorchDecoder(architecture, load_weights(model, architecture, torch.float32), LoraBank())


def by_native(model: Path) -> Decoder:
    architecture = read_architecture(model / "config.json")
    weights = load_weights(model, architecture, torch.float32)
    return NativeDecoder(architecture, weights, NativeBank(len(ADAPTERS)), library_path(), 32, 2)


is_native_here = pytest.mark.skipif(missing_feature() is not None, reason=f"not here: {missing_feature()}")
DECODERS = [
    pytest.param(by_torch, id="torch"),
    pytest.param(by_native, id="native", marks=is_native_here),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    home = tmp_path_factory.mktemp("activated")
    model, store = make_model(home / "model", num_hidden_layers=2, head_dim=32), home / "adapters"
    store.mkdir()
    return model, store, [make_adapter(model, store, seed, **lora) for seed, lora in enumerate(ADAPTERS)]


@pytest.fixture(scope="module", params=DECODERS)
def world(request: pytest.FixtureRequest, files: tuple[Path, Path, list[str]]) -> World:
    make: Callable[[Path], Decoder] = request.param
    return World(*files, make(files[0]))


def tokens(count: int = NUM_TOKENS, seed: int = 0) -> list[int]:
    """None of them is a part of an invocation."""
    return torch.randint(10, 131, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def read(passes: Passes, sequence: Sequence, token_ids: list[int], step: int = NUM_TOKENS) -> Tensor:
    """Logits [tokens, vocab] of a prompt that is read `step` tokens a pass."""
    return torch.cat(
        [passes.run(Chunk(sequence, token_ids[at : at + step]))[0] for at in range(0, len(token_ids), step)]
    )


def keys_of(passes: Passes, sequence: Sequence, count: int) -> list[Tensor]:
    """What the cache holds of the first `count` tokens, whole blocks of them."""
    blocks = list(sequence.blocks[: count // passes.block_size])
    return [layer[blocks] for layer in passes.cache.keys + passes.cache.values]


@pytest.mark.parametrize("place", PLACES)
def test_rows_before_the_invocation_are_the_bases_bit_for_bit(world: World, place: int) -> None:
    passes = world.passes()
    alone = world.reading(passes, -1)
    base = read(passes, alone, tokens())
    activated = world.reading(passes, ALORA, place)
    company = world.reading(passes, PLAIN)
    found, _ = passes.run(Chunk(activated, tokens()), Chunk(company, tokens(40, 1)))
    assert torch.equal(found[:place], base[:place])
    assert ((found[place:] - base[place:]).abs().amax(-1) > 1e-3).all()
    for own, bases in zip(keys_of(passes, activated, place), keys_of(passes, alone, place), strict=True):
        assert torch.equal(own, bases)


@pytest.mark.parametrize("place", PLACES)
def test_a_prompt_equals_a_slow_pass_that_takes_the_adapter_at_the_invocation(world: World, place: int) -> None:
    """Token by token, in decode rows, whose slot is another from there on."""
    passes = world.passes()
    whole = read(passes, world.reading(passes, ALORA, place), tokens(70))
    slow = world.reading(passes, -1)
    rows = []
    for position, token in enumerate(tokens(70)):
        slow.slot = world.slots[ALORA] if position >= place else -1
        rows += passes.run(Chunk(slow, [token], False))
    if world.decoder.rows_are_uniform:
        assert torch.equal(whole, torch.cat(rows))
    torch.testing.assert_close(whole, torch.cat(rows), atol=1e-4, rtol=0)


@pytest.mark.parametrize("place", [0, TILE, 2 * TILE])
def test_an_invocation_that_begins_a_tile_equals_tiles_of_two_slots_bit_for_bit(world: World, place: int) -> None:
    passes = world.passes()
    whole = read(passes, world.reading(passes, ALORA, place), tokens())
    slow = world.reading(passes, -1)
    before = [read(passes, slow, tokens()[:place])] if place else []
    slow.slot = world.slots[ALORA]
    assert torch.equal(whole, torch.cat([*before, read(passes, slow, tokens()[place:])]))


@pytest.mark.parametrize("step", [TILE, 2 * TILE])
def test_how_a_prompt_is_cut_into_passes_changes_no_bit(world: World, step: int) -> None:
    passes = world.passes()
    whole = read(passes, world.reading(passes, ALORA, 45), tokens())
    assert torch.equal(read(passes, world.reading(passes, ALORA, 45), tokens(), step), whole)


def test_plain_dora_activated_and_base_rows_in_one_batch_equal_each_alone(world: World) -> None:
    passes = world.passes()
    cast = [(ALORA, 45), (-1, 0), (PLAIN, 0), (OTHER, 20), (DORA, 0), (ALORA, 0), (OTHER, 33), (DORA, 40)]
    sequences = [world.reading(passes, which, place) for which, place in cast]
    together = passes.run(*(Chunk(one, tokens(50, n)) for n, one in enumerate(sequences)))
    together += passes.run(*(Chunk(one, [n], False) for n, one in enumerate(sequences)))
    for number, (which, place) in enumerate(cast):
        own = world.passes()
        alone = world.reading(own, which, place)
        assert torch.equal(own.run(Chunk(alone, tokens(50, number)))[0], together[number])
        assert torch.equal(own.run(Chunk(alone, [number], False))[0], together[len(cast) + number])


@pytest.mark.parametrize("which", [ALORA, OTHER])
def test_whole_prompts_equal_peft(world: World, which: int) -> None:
    """Whose offsets from the end are the same place while all of a prompt is in one call."""
    adapted = PeftModel.from_pretrained(load_reference(world.model), world.store / world.digests[which]).eval()
    invocation = tuple(ADAPTERS[which]["alora_invocation_tokens"])
    prompts = [
        [*tokens(40), *INVOCATION, *tokens(9, 1)],
        [*INVOCATION, *tokens(30), *INVOCATION, *tokens(20, 1)],
        [*INVOCATION[:2], *INVOCATION, *tokens(33)],
        [*tokens(12), *INVOCATION[:2]],
        [*tokens(62), *INVOCATION],
    ]
    for prompt in prompts:
        with torch.no_grad():
            expected = adapted(torch.tensor([prompt])).logits[0]
        place = place_of(invocation, prompt)
        passes = world.passes()
        sequence = world.reading(passes, which, place) if place >= 0 else world.reading(passes, -1)
        torch.testing.assert_close(read(passes, sequence, prompt), expected, atol=1e-4, rtol=0)
