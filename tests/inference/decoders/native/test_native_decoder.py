"""The native decoder beside the torch decoder, its truth; and each row beside the company it keeps."""

from __future__ import annotations

import dataclasses
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterStore
from inference.decoders.interrupt import Interrupted
from inference.decoders.kv_tensors import KVCache
from inference.decoders.native.bank import NativeBank
from inference.decoders.native.build import BuildError, library_path, missing_feature
from inference.decoders.native.decoder import NativeDecoder, unsupported
from inference.decoders.native.library import UNITS, open_library, units_of
from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import Architecture, read_architecture
from inference.model.linear import PlainLinear
from inference.model.weights import DecoderWeights, load_weights
from tests.inference.checkpoints import load_base, make_adapter, make_model
from tests.inference.passes import Chunk, Passes

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(missing_feature() is not None, reason=f"not here: {missing_feature()}"),
]

WIDE = {
    "hidden_size": 192,
    "intermediate_size": 320,
    "head_dim": 32,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, every head its own key": ("llama", {"num_key_value_heads": 6}),
    "llama, wide heads": ("llama", {"head_dim": 96, "num_attention_heads": 4}),
    "mistral, window": ("mistral", {"sliding_window": 20}),
    "mistral, window of a block": ("mistral", {"sliding_window": 16}),
}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = (
    {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    {"r": 8, "target_modules": ALL},
    {"r": 24, "target_modules": ALL[3:]},
    {"r": 8, "target_modules": ALL, "use_dora": True},
    {"r": 8, "target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    {"r": 8, "target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 17], "lm_head": [90]}},
)
BLOCK_SIZE = 32
HERE = units_of(open_library(library_path())) if missing_feature() is None else []
DEQUANTIZING = ("neon", "portable")
"""Units that do not multiply bytes: their quantised weights meet rows as they are."""


def tokens(count: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 131, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def linears_of(weights: DecoderWeights) -> list[Any]:
    """Those that are quantised."""
    layers = ((layer.qkv, layer.o, layer.gate_up, layer.down) for layer in weights.layers)
    return [linear for linear in (*chain(*layers), weights.head) if not isinstance(linear, PlainLinear)]


class Twins:
    """One model as both decoders compute it, and as torch computes it in float32 with the same weights."""

    def __init__(
        self,
        directory: Path,
        num_threads: int = 2,
        unit: str = "auto",
        quantization: str = "none",
        dtype: torch.dtype = torch.bfloat16,
        quantizes_rows: bool | None = None,
    ) -> None:
        self.architecture = read_architecture(directory / "config.json")
        self.directory, self.store, self.dtype = directory, directory.parent / "adapters", dtype
        weights = load_weights(directory, self.architecture, dtype, quantization=quantization)
        self.torch = TorchDecoder(self.architecture, weights, LoraBank())
        options = (library_path(), BLOCK_SIZE, num_threads, unit)
        self.native = NativeDecoder(self.architecture, weights, NativeBank(4), *options)
        wide = load_weights(directory, self.architecture, torch.float32, quantization=quantization)
        self.truth = TorchDecoder(self.architecture, wide, LoraBank())
        for linear in (*linears_of(weights), *linears_of(wide)):
            linear.quantizes_rows = self.native.unit not in DEQUANTIZING if quantizes_rows is None else quantizes_rows

    def passes(self, name: str, digests: tuple[str, ...] = ()) -> Passes:
        decoder = getattr(self, name)
        decoder.bank = NativeBank(4) if name == "native" else LoraBank()
        dtype = torch.float32 if name == "truth" else self.dtype
        base = dataclasses.replace(load_base(self.directory, dtype), is_packed=decoder.bank.is_packed)
        slots = LoraSlots(4, AdapterStore(self.store, base).load, decoder.bank)
        for digest in digests:
            slots.acquire(digest)
        return Passes(decoder, block_size=BLOCK_SIZE, dtype=dtype)


def make_twins(home: Path, kind: str = "llama", num_threads: int = 2, **overrides: Any) -> Twins:
    return Twins(make_model(home / "tiny", kind, **{**WIDE, **overrides}), num_threads)


def answer(passes: Passes, slot: int = -1, ids: list[int] | None = None, split: int = 71) -> Tensor:
    """Logits of every token: a prompt in tiles, then the rest one by one."""
    ids = ids or tokens(84)
    sequence = passes.sequence(slot)
    rows = passes.run(Chunk(sequence, ids[:split]))[0].clone()
    rest = [passes.run(Chunk(sequence, [token], False))[0].clone() for token in ids[split:]]
    return torch.cat([rows, *rest])


def assert_as_true_as_torch(native: Tensor, torch_rows: Tensor, truth: Tensor) -> None:
    """Both round to bfloat16 on their way, at different places; neither may be further from the truth."""
    assert native.isfinite().all()
    assert (native - truth).abs().mean() <= 1.25 * (torch_rows - truth).abs().mean()
    assert (native - truth).abs().max() <= 2 * (torch_rows - truth).abs().max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_as_true_as_torch(tmp_path: Path, variant: str) -> None:
    kind, overrides = VARIANTS[variant]
    twins = make_twins(tmp_path, kind, **overrides)
    rows = {name: answer(twins.passes(name)) for name in ("native", "torch", "truth")}
    assert_as_true_as_torch(rows["native"], rows["torch"], rows["truth"])


@pytest.mark.parametrize("unit", HERE)
def test_each_unit_is_as_true_and_its_rows_as_independent(tmp_path: Path, unit: str) -> None:
    twins = Twins(make_model(tmp_path / "tiny", **WIDE), unit=unit)
    assert twins.native.unit == unit
    rows = {name: answer(twins.passes(name)) for name in ("native", "torch", "truth")}
    assert_as_true_as_torch(rows["native"], rows["torch"], rows["truth"])
    assert torch.equal(rows["native"], answer(twins.passes("native"), split=32))


@pytest.mark.parametrize("unit", HERE)
def test_each_unit_computes_float32_as_torch_does(tmp_path: Path, unit: str) -> None:
    twins = Twins(make_model(tmp_path / "tiny", **WIDE), unit=unit, dtype=torch.float32)
    digest = make_adapter(tmp_path / "tiny", tmp_path / "adapters", **ADAPTERS[3])
    for digests, slot in (((), -1), ((digest,), 0)):
        rows, truth = (answer(twins.passes(name, digests), slot) for name in ("native", "truth"))
        torch.testing.assert_close(rows, truth, rtol=2e-5, atol=2e-5 * truth.abs().max().item())
        assert torch.equal(rows, answer(twins.passes("native", digests), slot, split=32))


def test_units_that_multiply_pairs_round_otherwise_than_those_that_widen(tmp_path: Path) -> None:
    directory = make_model(tmp_path / "tiny", **WIDE)
    first, *others = (answer(Twins(directory, unit=unit).passes("native")) for unit in HERE)
    for other in others:
        assert (first - other).abs().max() < 0.05 * other.abs().max()
    assert any(not torch.equal(first, other) for other in others)


def test_a_unit_that_the_processor_lacks_is_refused_by_name(tmp_path: Path) -> None:
    lacking = next(unit for unit in UNITS if unit not in HERE)
    with pytest.raises(BuildError, match=f"has no {lacking}; it has .*portable"):
        Twins(make_model(tmp_path / "tiny", **WIDE), unit=lacking)


@pytest.mark.parametrize("unit", HERE)
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantised_weights_are_read_as_torch_reads_them(tmp_path: Path, quantization: str, unit: str) -> None:
    twins = Twins(make_model(tmp_path / "tiny", **WIDE), unit=unit, quantization=quantization)
    rows = {name: answer(twins.passes(name)) for name in ("native", "torch", "truth")}
    assert_as_true_as_torch(rows["native"], rows["torch"], rows["truth"])
    assert torch.equal(rows["native"], answer(twins.passes("native"), split=32))


@pytest.mark.parametrize("unit", HERE)
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantised_weights_meet_rows_of_float32_too(tmp_path: Path, quantization: str, unit: str) -> None:
    directory = make_model(tmp_path / "tiny", num_hidden_layers=1, **WIDE)
    twins = Twins(directory, unit=unit, quantization=quantization, dtype=torch.float32)
    native, truth = (answer(twins.passes(name)) for name in ("native", "truth"))
    # A number on the edge between two levels of eight bits may be rounded to either.
    assert (native - truth).abs().median() <= 1e-5 * truth.abs().mean()
    assert (native - truth).abs().max() <= 1e-2 * truth.abs().max()
    assert torch.equal(native, answer(twins.passes("native"), split=32))


@pytest.mark.parametrize("number", range(len(ADAPTERS)))
def test_adapters_change_its_rows_as_they_change_torch_s(tmp_path: Path, number: int) -> None:
    twins = make_twins(tmp_path)
    digest = make_adapter(tmp_path / "tiny", tmp_path / "adapters", **ADAPTERS[number])
    rows = {name: answer(twins.passes(name, (digest,)), 0) for name in ("native", "torch", "truth")}
    assert_as_true_as_torch(rows["native"], rows["torch"], rows["truth"])
    assert not torch.equal(rows["native"], answer(twins.passes("native")))


@pytest.fixture
def crowd(tmp_path: Path) -> tuple[Twins, tuple[str, ...]]:
    """A model with three adapters of unlike ranks and targets."""
    twins = make_twins(tmp_path)
    digests = tuple(make_adapter(tmp_path / "tiny", tmp_path / "adapters", seed=n, **ADAPTERS[n]) for n in range(3))
    return twins, digests


@pytest.mark.parametrize("slot", [-1, 0, 1, 2])
def test_a_row_is_the_same_to_the_bit_in_any_company(crowd: tuple[Twins, tuple[str, ...]], slot: int) -> None:
    twins, digests = crowd
    alone = answer(twins.passes("native", digests), slot)
    passes = twins.passes("native", digests)
    others = [passes.sequence(number % 4 - 1) for number in range(37)]
    ours, ids = passes.sequence(slot), tokens(84)
    rows = []
    for start, end in ((0, 32), (32, 64), (64, 71), *((at, at + 1) for at in range(71, 84))):
        company = [
            Chunk(other, tokens(1 + n % 3, seed=n + start), False) for n, other in enumerate(others[: start % 40])
        ]
        rows.append(passes.run(*company, Chunk(ours, ids[start:end], start < 71))[-1].clone())
    assert torch.equal(torch.cat(rows), alone)


def test_a_row_is_the_same_to_the_bit_among_many_that_are_dealt_out(crowd: tuple[Twins, tuple[str, ...]]) -> None:
    twins, digests = crowd
    prompts = [(slot, tokens(length, seed=length)) for slot, length in ((-1, 71), (1, 96), (0, 45), (2, 84), (-1, 33))]
    for chosen in (prompts, prompts[:1] + prompts[2:3] + prompts[4:]):  # with adapters on the gates, and without
        passes = twins.passes("native", digests)
        together = passes.run(*(Chunk(passes.sequence(slot), ids) for slot, ids in chosen))
        together = [rows.clone() for rows in together]
        for (slot, ids), rows in zip(chosen, together, strict=True):
            assert torch.equal(rows, answer(twins.passes("native", digests), slot, ids, split=32))


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantised_weights_meet_many_rows_as_they_meet_few(tmp_path: Path, quantization: str) -> None:
    twins = Twins(make_model(tmp_path / "tiny", **WIDE), quantization=quantization)
    ids = tokens(111)
    assert torch.equal(
        answer(twins.passes("native"), ids=ids, split=111), answer(twins.passes("native"), ids=ids, split=32)
    )


def test_a_tile_and_decode_rows_give_the_same_bits(crowd: tuple[Twins, tuple[str, ...]]) -> None:
    twins, digests = crowd
    assert twins.native.rows_are_uniform
    by_tile = answer(twins.passes("native", digests), 1, split=84)
    assert torch.equal(by_tile, answer(twins.passes("native", digests), 1, split=32))


def test_the_number_of_threads_changes_no_bit(tmp_path: Path) -> None:
    rows = answer(make_twins(tmp_path, num_threads=1).passes("native"))
    assert torch.equal(rows, answer(Twins(tmp_path / "tiny", num_threads=5).passes("native")))


def test_what_another_sequence_left_in_a_block_is_never_read(tmp_path: Path) -> None:
    twins = make_twins(tmp_path)
    clean = answer(twins.passes("native"))
    dirty = twins.passes("native")
    for layer in (*dirty.cache.keys, *dirty.cache.values):
        layer.fill_(float("nan"))
    assert torch.equal(answer(dirty), clean)


def test_a_slot_that_is_filled_anew_serves_the_new_adapter(crowd: tuple[Twins, tuple[str, ...]]) -> None:
    twins, digests = crowd
    load = AdapterStore(twins.store, load_base(twins.directory, torch.bfloat16)).load
    twins.native.bank = NativeBank(1)
    slots = LoraSlots(1, load, twins.native.bank)
    first, second = (_serve(twins, slots, digest) for digest in digests[:2])
    assert torch.equal(first, answer(twins.passes("native", digests[:1]), 0))
    assert torch.equal(second, answer(twins.passes("native", digests[1:2]), 0))


def _serve(twins: Twins, slots: LoraSlots, digest: str) -> Tensor:
    slot = slots.acquire(digest)
    assert slot == 0
    rows = answer(Passes(twins.native, block_size=BLOCK_SIZE, dtype=torch.bfloat16), slot)
    slots.release(digest)
    return rows


@pytest.mark.parametrize("width", [16, 131, 1000])
def test_the_largest_logit_is_the_first_of_equals(tmp_path: Path, width: int) -> None:
    native = make_twins(tmp_path).native
    logits = torch.randint(-9, 9, (40, width + 5)).float()[:, :width]
    logits[1] = -1e30
    assert native.argmax(logits) == (logits.numpy().argmax(-1).tolist(), [True] * 40)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_a_row_with_a_number_that_is_none_is_told(tmp_path: Path, wrong: float) -> None:
    logits = torch.randn(4, 131)
    logits[1, 130] = logits[3, 0] = wrong
    assert make_twins(tmp_path).native.argmax(logits)[1] == [True, False, True, False]


@pytest.mark.parametrize("count", [20, 120])
def test_a_pass_that_is_interrupted_can_be_computed_again(tmp_path: Path, count: int) -> None:
    passes = make_twins(tmp_path).passes("native")
    interrupt, decoder = passes.decoder.interrupt, passes.decoder
    batch, _ = passes.batch(Chunk(passes.sequence(), tokens(count)))
    before = decoder.forward(batch, passes.cache).clone()
    interrupt.begin(is_allowed=True)
    interrupt.request()
    with pytest.raises(Interrupted):
        decoder.forward(batch, passes.cache)
    interrupt.acknowledge()
    assert torch.equal(decoder.forward(batch, passes.cache), before)


def test_shapes_that_it_does_not_compute_are_named(tmp_path: Path) -> None:
    def shape(**changes: Any) -> Architecture:
        return read_architecture(make_model(tmp_path, **{**WIDE, **changes}) / "config.json")

    assert unsupported(shape(), 32) is None
    assert "head_dim is 24" in str(unsupported(shape(head_dim=24, num_attention_heads=8), 32))
    assert "intermediate_size is 100" in str(unsupported(shape(intermediate_size=100), 32))
    assert "BLOCK_SIZE is 24" in str(unsupported(shape(), 24))


def test_a_cache_of_another_block_size_is_refused(tmp_path: Path) -> None:
    twins = make_twins(tmp_path)
    passes = twins.passes("native")
    passes.cache = KVCache(twins.architecture, 8, 16, torch.bfloat16)
    with pytest.raises(AssertionError, match="another block size"):
        answer(passes)
