"""Many adapters in one batch against PEFT, which runs each of them alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import load_base, load_decoder, load_reference, make_adapter, make_model
from passes import Chunk, Passes, answer
from peft import PeftModel
from torch import Tensor

from inference.adapters.identity import composed_digest
from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterCache, AdapterStore
from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.wire.protocol import Component

pytestmark = pytest.mark.slow

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS: list[list[str]] = [ALL[:1] + ALL[2:3], ALL, ALL[4:], ALL[:4], ["down_proj"], ["k_proj", "up_proj"], ALL[:2]]
SPECIAL: dict[int, dict[str, Any]] = {
    3: {"use_rslora": True},
    8: {"use_rslora": True, "alpha_pattern": {"q_proj": 5}, "target_modules": ALL},
    11: {"rank_pattern": {"q_proj": 16, "layers.1.mlp.up_proj": 3}, "target_modules": ALL},
    14: {
        "alpha_pattern": {f"layers.{layer}.self_attn.v_proj": 40.0 for layer in (0, 2)},
        "rank_pattern": {"v_proj": 12},
    },
    17: {"layers_to_transform": [1], "target_modules": ["q_proj", "down_proj"]},
    2: {"use_dora": True},
    9: {"use_dora": True, "use_rslora": True, "target_modules": ALL},
    15: {"use_dora": True, "layers_to_transform": [0, 2], "target_modules": ["k_proj", "o_proj", "up_proj"]},
    6: {"target_modules": ["embed_tokens"]},
    10: {"target_modules": ["lm_head"], "alpha_pattern": {"lm_head": 9}},
    13: {"target_modules": [*ALL, "embed_tokens", "lm_head"], "rank_pattern": {"model.embed_tokens": 12, "lm_head": 5}},
    12: {"target_modules": r".*\.layers\.[02]\.self_attn\.(q|v)_proj"},
    16: {
        "rank_pattern": {r"layers\.[12]\..*": 6, "q_proj": 16},
        "alpha_pattern": {r".*\.layers\.(0|2)\..*proj": 7, "k_proj": 3},
        "target_modules": ALL,
    },
    18: {"target_modules": [*ALL, "qkv", "linear_fc1", "attn.proj"], "exclude_modules": ["k_proj"]},
    22: {"bias": "all", "target_modules": "all-linear"},
    20: {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "use_dora": True},
    21: {"trainable_token_indices": {"embed_tokens": [5, 17, 90], "lm_head": [4, 17]}},
    24: {"use_dora": True, "trainable_token_indices": list(range(40))},
}
NUM_ADAPTERS, NUM_TOKENS = 25, 6
SUMS: list[dict[int, float]] = [{0: 0.7, 4: -0.4}, {1: 0.5, 6: 0.3, 5: 1.2}, {19: 1.5, 13: 0.25}]
"""Adapters, by their index, that are added up with weights. PEFT lets the first one's kind of scaling stand for all."""


def options(index: int) -> dict[str, Any]:
    """Ranks 4, 8, 16 and 32 by turns, over all kinds of targets."""
    plain = {"r": (4, 8, 16, 32)[index % 4], "lora_alpha": 16, "target_modules": TARGETS[index % len(TARGETS)]}
    return plain | SPECIAL.get(index, {})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def digests(tiny_model: Path, store: Path) -> list[str]:
    return [make_adapter(tiny_model, store, index, **options(index)) for index in range(NUM_ADAPTERS)]


def load_slots(decoder: TorchDecoder, model: Path, store: Path, num_slots: int = 32) -> LoraSlots:
    """Slots that hold nothing yet."""
    decoder.bank = LoraBank()
    return LoraSlots(num_slots, load_cache(decoder, model, store).load, decoder.bank)


def load_cache(decoder: TorchDecoder, model: Path, store: Path) -> AdapterCache:
    return AdapterCache(AdapterStore(store, load_base(model, decoder.weights.dtype)).load, 2**30, max_rank=128)


def add_up(cache: AdapterCache, digests: list[str], weights: dict[int, float]) -> str:
    """Put a sum of adapters into `cache`; its digest."""
    components = tuple(Component(digests[index], weight) for index, weight in weights.items())
    digest = composed_digest((component.digest, component.weight) for component in components)
    return cache.load(digest, components).digest


def peft_sum(model: Path, store: Path, digests: list[str], weights: dict[int, float]) -> Any:
    """The same sum as PEFT makes it."""
    names = [f"adapter-{index}" for index in weights]
    first, *others = (store / digests[index] for index in weights)
    adapted = PeftModel.from_pretrained(load_reference(model), first, adapter_name=names[0])
    for name, directory in zip(names[1:], others, strict=True):
        adapted.load_adapter(directory, adapter_name=name)
    adapted.add_weighted_adapter(names, list(weights.values()), "sum", combination_type="cat")
    adapted.set_adapter("sum")
    return adapted.eval()


def prompts(count: int, vocab: int = 131) -> list[list[int]]:
    """One of each length from 20 up, so that tiles are whole, broken and several."""
    random = torch.Generator().manual_seed(3)
    return [torch.randint(0, vocab, (20 + index,), generator=random).tolist() for index in range(count)]


def peft_logits(model: Any, prompt: list[int], reply: list[int]) -> Tensor:
    """Logits [tokens of the reply, vocab] that PEFT gives for each token of `reply`."""
    with torch.no_grad():
        return model(torch.tensor([prompt + reply[:-1]])).logits[0, len(prompt) - 1 :]


@pytest.fixture(scope="module")
def mixed(tiny_model: Path, store: Path, digests: list[str]) -> dict[str, Any]:
    """All adapters, sums and two rows of the base, answered in one batch, and what PEFT says to the same tokens."""
    decoder = load_decoder(tiny_model)
    cache = load_cache(decoder, tiny_model, store)
    slots = LoraSlots(32, cache.load, decoder.bank)
    sums = [add_up(cache, digests, weights) for weights in SUMS]
    rows: list[int] = [-1, *(slots.acquire(digest) for digest in [*digests, *sums]), -1]  # type: ignore[list-item]
    texts = prompts(len(rows))
    logits, replies = answer(Passes(decoder), texts, rows, NUM_TOKENS)
    base = load_reference(tiny_model)
    expected_base = [peft_logits(base, text, reply) for text, reply in zip(texts, replies, strict=True)]
    expected = [expected_base[0]]
    for digest, text, reply in zip(digests, texts[1:], replies[1:], strict=False):
        adapted = PeftModel.from_pretrained(load_reference(tiny_model), store / digest).eval()
        expected.append(peft_logits(adapted, text, reply))
    for row, weights in enumerate(SUMS, len(expected)):
        expected.append(peft_logits(peft_sum(tiny_model, store, digests, weights), texts[row], replies[row]))
    return {
        "decoder": decoder,
        "slots": slots,
        "rows": rows,
        "prompts": texts,
        "logits": logits,
        "replies": replies,
        "expected": torch.stack([*expected, expected_base[-1]]),
        "base": torch.stack(expected_base),
    }


def test_twenty_five_adapters_their_sums_and_the_base_in_one_batch_equal_peft_alone(mixed: dict[str, Any]) -> None:
    torch.testing.assert_close(mixed["logits"], mixed["expected"], atol=1e-4, rtol=0)
    assert mixed["replies"] == mixed["expected"].argmax(-1).tolist()


def test_adapters_of_a_tied_table_and_head_equal_peft(tmp_path: Path, store: Path) -> None:
    model = make_model(tmp_path / "tied", tie_word_embeddings=True)
    extents = (["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head", "v_proj"])
    digests = [
        make_adapter(model, store, 100 + 10 * len(targets) + is_dora, target_modules=targets, use_dora=bool(is_dora))
        for targets in extents[1:]
        for is_dora in (0, 1)
    ]
    digests.append(make_adapter(model, store, 99, target_modules=extents[0]))
    decoder = load_decoder(model)
    slots = load_slots(decoder, model, store)
    texts = prompts(len(digests))
    logits, replies = answer(Passes(decoder), texts, [slots.acquire(digest) or 0 for digest in digests], NUM_TOKENS)
    for row, digest in enumerate(digests):
        adapted = PeftModel.from_pretrained(load_reference(model), store / digest).eval()
        expected = peft_logits(adapted, texts[row], replies[row])
        torch.testing.assert_close(logits[row], expected, atol=1e-4, rtol=0)
        assert replies[row] == expected.argmax(-1).tolist()


def test_every_adapter_differs_from_the_base(mixed: dict[str, Any]) -> None:
    changes = (mixed["expected"] - mixed["base"]).abs().amax(dim=(1, 2))
    assert changes[1:-1].min() > 0.1
    tokens_differ = (mixed["logits"].argmax(-1) != mixed["base"].argmax(-1)).any(-1)
    assert tokens_differ[1:-1].all()


def test_rows_of_the_base_are_bitwise_the_bases(mixed: dict[str, Any], tiny_model: Path) -> None:
    alone, _ = answer(Passes(load_decoder(tiny_model)), mixed["prompts"][:1], [-1], NUM_TOKENS)
    assert torch.equal(mixed["logits"][0], alone[0])


@pytest.mark.parametrize("pair", [(1, 2), (5, 9), (0, 7), (24, 25)])
def test_swapping_two_slots_is_noticed(mixed: dict[str, Any], pair: tuple[int, int]) -> None:
    rows = list(mixed["rows"])
    rows[pair[0]], rows[pair[1]] = rows[pair[1]], rows[pair[0]]
    logits, _ = answer(Passes(mixed["decoder"]), mixed["prompts"], rows, 1)
    off = (logits[:, 0] - mixed["expected"][:, 0]).abs().amax(-1)
    assert all(off[row] > 1e-2 for row in pair)
    assert all(off[row] < 1e-4 for row in range(len(rows)) if row not in pair)


def test_an_adapter_equals_its_merged_weights(
    tiny_model: Path, store: Path, digests: list[str], tmp_path: Path
) -> None:
    digest = digests[8]
    merged = PeftModel.from_pretrained(load_reference(tiny_model), store / digest).merge_and_unload()
    merged.save_pretrained(tmp_path)
    decoder = load_decoder(tiny_model)
    slots = load_slots(decoder, tiny_model, store)
    adapted, _ = answer(Passes(decoder), prompts(1), [slots.acquire(digest) or 0], NUM_TOKENS)
    dense, _ = answer(Passes(load_decoder(tmp_path)), prompts(1), [-1], NUM_TOKENS)
    torch.testing.assert_close(adapted, dense, atol=1e-4, rtol=0)


@dataclass(frozen=True)
class Wide:
    """A model and its adapters."""

    decoder: TorchDecoder
    model: Path
    store: Path
    digests: list[str]

    def slots(self, num_slots: int = 32) -> LoraSlots:
        return load_slots(self.decoder, self.model, self.store, num_slots)


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Wide:
    """A model of the default base's widths with adapters."""
    directory, store = tmp_path_factory.mktemp("wide"), tmp_path_factory.mktemp("wide-adapters")
    make_model(
        directory,
        hidden_size=576,
        intermediate_size=1536,
        num_attention_heads=9,
        num_key_value_heads=3,
        num_hidden_layers=2,
        initializer_range=0.05,
    )
    shapes = [options(index) | {"rank_pattern": {}, "layers_to_transform": None} for index in (*range(11), 13, 20)]
    digests = [make_adapter(directory, store, index, 0.02, **shape) for index, shape in enumerate(shapes)]
    return Wide(load_decoder(directory, request.param), directory, store, digests)


def test_an_adapters_rows_are_bitwise_the_same_in_any_company(wide: Wide) -> None:
    decoder, digests = wide.decoder, wide.digests
    slots = wide.slots()
    holders = [*digests, *digests[:6], None]
    rows = [slots.acquire(digest) if digest else -1 for digest in holders]
    texts = prompts(len(rows))
    together, _ = answer(Passes(decoder), texts, rows, 4)  # type: ignore[arg-type]
    for index in (0, 1, 2, 3, 6, 8, 9, 10, 11, 12, 14, len(holders) - 1):
        digest = holders[index]
        own = wide.slots(3)
        slot = own.acquire(digest) if digest else -1
        alone, _ = answer(Passes(decoder), [texts[index]], [slot], 4)  # type: ignore[list-item]
        assert torch.equal(together[index], alone[0]), f"row {index}"


def test_an_adapter_evicted_and_reloaded_into_another_slot_gives_the_same_bits(wide: Wide) -> None:
    decoder, digests = wide.decoder, wide.digests
    slots = wide.slots(2)
    first = slots.acquire(digests[1])
    assert first is not None
    before, _ = answer(Passes(decoder), prompts(1), [first], 4)
    slots.release(digests[1])
    for digest in digests[2:4]:
        slots.acquire(digest)
    assert slots.slot(digests[1]) is None
    slots.release(digests[2 if slots.slot(digests[2]) != first else 3])
    again = slots.acquire(digests[1])
    assert again is not None
    assert again != first
    after, _ = answer(Passes(decoder), prompts(1), [again], 4)
    assert torch.equal(before, after)


def test_the_plan_follows_a_slot_that_changes_hands(wide: Wide) -> None:
    decoder, digests = wide.decoder, wide.digests
    slots = wide.slots(1)
    results = []
    for digest in (digests[0], digests[1], digests[0]):
        slot = slots.acquire(digest)
        assert slot == 0
        passes = Passes(decoder)
        sequence = passes.sequence(slot)
        results.append(passes.run(Chunk(sequence, prompts(1)[0], False))[0])
        slots.release(digest)
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[1])
