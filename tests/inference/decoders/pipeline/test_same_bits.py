"""A base in stages has the bits of a base in one piece: each family, both decoders, with adapters of each kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from blends import flow_gate, ramole_gate, ref_of
from checkpoints import load_base, make_adapter, make_model
from gguf_files import write_gguf
from passes import Chunk, Passes, answer
from staged import BLOCK_SIZE, InTurn, load_stage
from torch import Tensor

from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterCache, AdapterStore
from inference.decoders.native.build import missing_feature
from inference.model.architecture import TARGETS, read_architecture
from inference.model.gguf.directory import write_directory
from inference.wire.protocol import GateRef
from tests.inference.families import make_family

is_native_here = pytest.mark.skipif(missing_feature() is not None, reason=f"not here: {missing_feature()}")
KINDS = ["torch", pytest.param("native", marks=is_native_here)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SHAPE = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "head_dim": 32,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
}
TEXTS = [list(range(71)), list(range(60, 127)), list(range(40))]
FAMILIES = (
    *("llama, biases", "smollm3", "granite", "olmo2", "phi", "gemma2, low caps", "gemma3"),
    *("qwen3", "ministral", "glm4", "stablelm, parallel, normed heads"),
)
ALL = list(TARGETS)
ADAPTERS: tuple[dict[str, Any], ...] = (
    {"r": 8, "target_modules": ALL},
    {"r": 4, "target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
    {"r": 8, "target_modules": ALL, "use_dora": True},
    {"r": 8, "target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    {"r": 8, "target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 17], "lm_head": [90]}},
)
GATES = (GateRef("arrow", top_k=1), GateRef("flow", digest="9" * 64), GateRef("ramole", digest="8" * 64))


def slots_of(model: Path, store: Path, decoder: Any, dtype: torch.dtype, digests: list[str]) -> list[int]:
    base = replace(load_base(model, dtype), is_packed=decoder.bank.is_packed)
    slots = LoraSlots(16, AdapterStore(store, base).load, decoder.bank)
    return [slot for digest in digests if (slot := slots.acquire(digest)) is not None]


def answered(decoder: Any, dtype: torch.dtype, slots: list[int]) -> Tensor:
    """Logits of answers to `TEXTS`, tiles first and then rows, by the base and adapters in the same passes."""
    texts = [TEXTS[at % len(TEXTS)] for at in range(len(slots))]
    return answer(Passes(decoder, block_size=BLOCK_SIZE, dtype=dtype), texts, slots, 3)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", FAMILIES)
def test_every_family(tmp_path: Path, variant: str, kind: str, dtype: str) -> None:
    model, store, number = make_family(tmp_path / "model", variant), tmp_path / "adapters", DTYPES[dtype]
    store.mkdir()
    digest = make_adapter(model, store, 0, 0.1, target_modules="all-linear")
    whole = load_stage(model, kind, number)
    expected = answered(whole, number, [-1, *slots_of(model, store, whole, number, [digest]), -1])
    for ends, num_micro in (([1, 3], 2), ([1, 2, 3], 4)):
        staged = InTurn(model, kind, number, ends, num_micro)
        got = answered(staged, number, [-1, *slots_of(model, store, staged, number, [digest]), -1])
        assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_of_every_kind_in_one_batch(tmp_path: Path, kind: str, dtype: str) -> None:
    model, store, number = make_model(tmp_path / "model", **SHAPE), tmp_path / "adapters", DTYPES[dtype]
    store.mkdir()
    digests = [make_adapter(model, store, at, **options) for at, options in enumerate(ADAPTERS)]
    whole, staged = load_stage(model, kind, number), InTurn(model, kind, number, [1, 2, 3], 3)
    expected, got = (
        answered(decoder, number, [-1, *slots_of(model, store, decoder, number, digests)])
        for decoder in (whole, staged)
    )
    assert torch.equal(got, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_fewer_bits(tmp_path: Path, kind: str, quantization: str) -> None:
    model = make_model(tmp_path / "model", **SHAPE, tie_word_embeddings=True)
    whole = load_stage(model, kind, torch.bfloat16, None, quantization)
    staged = InTurn(model, kind, torch.bfloat16, [2, 3], 2, quantization)
    expected, got = (answered(decoder, torch.bfloat16, [-1, -1]) for decoder in (whole, staged))
    assert torch.equal(got, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("group", "is_tied"), [("Q4_K", True), ("Q8_0", False)])
def test_a_file_in_fewer_bits(tmp_path: Path, kind: str, group: str, is_tied: bool) -> None:
    write_gguf(tmp_path / "tiny.gguf", group, leave_out=("output.weight",) if is_tied else ())
    model = tmp_path / "tiny"
    model.mkdir()
    write_directory(tmp_path / "tiny.gguf", model)
    count = read_architecture(model / "config.json").num_layers
    whole = load_stage(model, kind, torch.bfloat16, None, "auto")
    staged = InTurn(model, kind, torch.bfloat16, [1, count], 2, "auto")
    expected, got = (answered(decoder, torch.bfloat16, [-1, -1]) for decoder in (whole, staged))
    assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_blends_and_what_their_gates_made_of_rows(tmp_path: Path, kind: str, dtype: str) -> None:
    model, store, number = make_model(tmp_path / "model", **SHAPE), tmp_path / "adapters", DTYPES[dtype]
    store.mkdir()
    digests = [make_adapter(model, store, at, r=4 + at, target_modules=ALL) for at in range(2)]
    arch = read_architecture(model / "config.json")
    gates = {
        GATES[1].digest: flow_gate(digests, arch.num_layers, arch.hidden_size),
        GATES[2].digest: ramole_gate({target: arch.target_shape(target) for target in ALL}, arch.num_layers),
    }
    found = []
    for decoder in (load_stage(model, kind, number), InTurn(model, kind, number, [1, 2, 3], 2)):
        base = replace(load_base(model, number), is_packed=decoder.bank.is_packed)
        cache = AdapterCache(AdapterStore(store, base).load, 2**30, 64, decoder.bank.prepare, gates.__getitem__)
        slots = LoraSlots(16, cache.load, decoder.bank)
        blended = [slots.acquire(cache.load(*ref_of(digests, gate)).digest) for gate in GATES]
        passes = Passes(decoder, block_size=BLOCK_SIZE, dtype=number)
        known = [passes.sequence(slot) for slot in (-1, *blended) if slot is not None]
        steps = [torch.cat(passes.run(*(Chunk(one, TEXTS[0]) for one in known)))]
        steps.append(torch.cat(passes.run(*(Chunk(one, [5], False) for one in known))))
        found.append((torch.cat(steps), decoder.coefficients))
    (expected, told), (got, told_staged) = found
    assert torch.equal(got, expected)
    assert told.isfinite().any()
    assert torch.equal(told_staged.nan_to_num(-1), told.nan_to_num(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states(tmp_path: Path, kind: str) -> None:
    model = make_model(tmp_path / "model", **SHAPE)
    states = []
    for decoder in (load_stage(model, kind, torch.bfloat16), InTurn(model, kind, torch.bfloat16, [1, 2, 3], 3)):
        passes = Passes(decoder, block_size=BLOCK_SIZE, dtype=torch.bfloat16)
        batch, _ = passes.batch(Chunk(passes.sequence(), TEXTS[0]), Chunk(passes.sequence(), TEXTS[1]))
        decoder.forward(replace(batch, hidden_rows=torch.arange(5, 120)), passes.cache)
        states.append(decoder.hidden)
    assert torch.equal(*states)
