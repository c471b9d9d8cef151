"""NOLA: bases that are a function of their numbers, and the LoRA that a file of coefficients stands for."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from inference.adapters.examination import examine_files
from inference.adapters.file import AdapterRefused
from inference.adapters.methods.nola import GENERATOR
from inference.adapters.random_bases import combine, draw, start_of, stream_key
from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterStore
from inference.model.architecture import read_architecture
from tests.inference.adapters.methods import CONFIG, WEIGHTS, Change, change
from tests.inference.checkpoints import load_base, load_decoder, make_adapter, publish
from tests.inference.passes import Passes, answer

WORD = 2**64
KNOWN: list[tuple[int, str, str, int, int, int, int]] = [
    (0, "model.layers.0.self_attn.q_proj", "A", 0, 4608, 0, 1168383),
    (0, "model.layers.0.self_attn.q_proj", "A", 0, 4608, 2303, 5894360),
    (0, "model.layers.0.self_attn.q_proj", "A", 0, 4608, 2304, 8361094),
    (0, "model.layers.0.self_attn.q_proj", "A", 0, 4608, 4607, 3632478),
    (0, "model.layers.0.self_attn.q_proj", "B", 63, 4608, 0, 6676005),
    (0, "model.layers.0.self_attn.q_proj", "B", 63, 4608, 2303, -7410708),
    (0, "model.layers.0.self_attn.q_proj", "B", 63, 4608, 2304, 6792918),
    (0, "model.layers.0.self_attn.q_proj", "B", 63, 4608, 4607, 3068749),
    (1, "model.layers.29.self_attn.v_proj", "A0", 0, 4608, 0, 7438392),
    (1, "model.layers.29.self_attn.v_proj", "A0", 0, 4608, 2303, 4687746),
    (1, "model.layers.29.self_attn.v_proj", "A0", 0, 4608, 2304, 2289765),
    (1, "model.layers.29.self_attn.v_proj", "A0", 0, 4608, 4607, -5071408),
    (7, "lm_head", "A", 511, 99, 0, 4114925),
    (7, "lm_head", "A", 511, 99, 48, -3541979),
    (7, "lm_head", "A", 511, 99, 50, -981787),
    (7, "lm_head", "A", 511, 99, 98, -3330426),
    (9223372036854775807, "model.layers.3.mlp.down_proj", "B", 4095, 12288, 0, -4040618),
    (9223372036854775807, "model.layers.3.mlp.down_proj", "B", 4095, 12288, 6143, 5364387),
    (9223372036854775807, "model.layers.3.mlp.down_proj", "B", 4095, 12288, 6144, 2589368),
    (9223372036854775807, "model.layers.3.mlp.down_proj", "B", 4095, 12288, 12287, -7209398),
]
"""Seed, module, matrix, basis, size of a basis, place in it, and the number in 2^23rds."""
RANK, BASES, SEED, ALPHA = 3, 5, 11, 6
TARGETS = ("q_proj", "down_proj")


def slow_number(key: int, basis: int, place: int, size: int) -> float:
    """One number of a basis, as `draw` says it, in Python's whole numbers."""
    half = (size + 1) // 2
    word = (key + (1 + basis * half + place % half) * 0x9E3779B97F4A7C15) % WORD
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % WORD
    word ^= word >> 31
    bits = word >> 40 if place < half else (word >> 16) % 2**24
    return (bits - 2**23) / 2**23


def slow_sum(key: int, coefficients: list[float], size: int, start: list[float]) -> list[float]:
    """Each number of a sum of bases, in float64, added up in their order and not rounded yet."""
    root = math.sqrt(len(coefficients))
    total = list(start)
    for basis, coefficient in enumerate(coefficients):
        for place in range(size):
            total[place] += slow_number(key, basis, place, size) * (coefficient / root)
    return total


def slow_pair(module: str, a: list[float], b: list[float], inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """A [rank, in] and B [out, rank], float32."""
    sizes = {"A": RANK * inputs, "B": outputs * RANK}
    bound, first = math.sqrt(inputs), stream_key(SEED, module, "A0")
    start = [slow_number(first, 0, place, sizes["A"]) / bound for place in range(sizes["A"])]
    total_a = slow_sum(stream_key(SEED, module, "A"), a, sizes["A"], start)
    total_b = slow_sum(stream_key(SEED, module, "B"), b, sizes["B"], [0.0] * sizes["B"])
    made = (torch.tensor(total, dtype=torch.float64).to(torch.float32) for total in (total_a, total_b))
    pair_a, pair_b = made
    return pair_a.view(RANK, inputs), pair_b.view(outputs, RANK)


def save_nola(model: Path, directory: Path, size: float = 2.0) -> dict[str, Tensor]:
    """Save an adapter of random coefficients, and give these."""
    random, architecture = torch.Generator().manual_seed(5), read_architecture(model / "config.json")
    modules = [architecture.module_name(target, layer) for target in TARGETS for layer in range(3)]
    tensors = {
        f"base_model.model.{module}.nola_coefficients": size * torch.randn(2, BASES, generator=random)
        for module in modules
    }
    config = {
        "peft_type": "NOLA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": list(TARGETS),
        "nola_basis": BASES,
        "nola_seed": SEED,
        "nola_generator": GENERATOR,
    }
    directory.mkdir(exist_ok=True)
    save_file(tensors, directory / WEIGHTS)
    (directory / CONFIG).write_text(json.dumps(config))
    return tensors


def save_expanded(model: Path, directory: Path, coefficients: dict[str, Tensor]) -> None:
    """Save the plain LoRA that the coefficients stand for, made number by number."""
    architecture, tensors = read_architecture(model / "config.json"), {}
    for name, both in coefficients.items():
        prefix = name.removesuffix("nola_coefficients")
        module = prefix.removeprefix("base_model.model.").removesuffix(".")
        inputs, outputs = architecture.target_shape(module.rpartition(".")[2])
        a, b = both.tolist()
        tensors[f"{prefix}lora_A.weight"], tensors[f"{prefix}lora_B.weight"] = slow_pair(module, a, b, inputs, outputs)
    directory.mkdir()
    save_file(tensors, directory / WEIGHTS)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": list(TARGETS)}
    (directory / CONFIG).write_text(json.dumps(config))


def test_the_bases_are_those_of_the_first_day() -> None:
    """Files in the world mean these numbers: whoever changes them gives the generator another name."""
    assert GENERATOR == "splitmix64-1"
    for seed, module, matrix, basis, size, place, number in KNOWN:
        assert draw(stream_key(seed, module, matrix), basis, 1, size)[0, place].item() * 2**23 == number


@pytest.mark.parametrize(("first", "count", "size"), [(0, 1, 1), (0, 3, 2), (2, 2, 7), (1000, 1, 40), (3, 2, 41)])
@pytest.mark.parametrize("key", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_numbers_drawn_together_are_those_drawn_one_by_one(key: int, first: int, count: int, size: int) -> None:
    drawn = draw(key, first, count, size)
    slow = [[slow_number(key, basis, place, size) for place in range(size)] for basis in range(first, first + count)]
    assert drawn.tolist() == slow
    assert torch.equal(drawn.to(torch.float32).to(torch.float64), drawn)


def test_numbers_are_spread_evenly_and_bases_are_unlike() -> None:
    drawn = draw(stream_key(0, "model.layers.0.self_attn.q_proj", "A"), 0, 16, 4608)
    assert drawn.min() >= -1
    assert drawn.max() < 1
    assert drawn.mean().abs() < 0.01
    assert (drawn.square().mean() - 1 / 3).abs() < 0.01
    likeness = torch.corrcoef(drawn) - torch.eye(16)
    assert likeness.abs().max() < 0.07
    halves = drawn.view(16, 2, 2304)
    assert torch.corrcoef(halves.transpose(0, 1).flatten(1))[0, 1].abs() < 0.02


@pytest.mark.parametrize("shape", [(3, 64), (96, 3), (1, 1), (5, 7)])
def test_a_sum_of_bases_is_the_slow_one_to_the_bit(shape: tuple[int, int]) -> None:
    coefficients = torch.randn(9, generator=torch.Generator().manual_seed(1))
    size, key = math.prod(shape), stream_key(4, "m", "A")
    start = start_of(stream_key(4, "m", "A0"), shape)
    slow = slow_sum(key, coefficients.tolist(), size, start.flatten().tolist())
    expected = torch.tensor(slow, dtype=torch.float64).to(torch.float32).view(shape)
    assert torch.equal(combine(key, coefficients, shape, start), expected)


def test_more_bases_at_once_than_fit_are_the_same_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    coefficients = torch.randn(50)
    whole = combine(7, coefficients, (4, 16))
    monkeypatch.setattr("inference.adapters.random_bases._AT_ONCE", 96)
    assert torch.equal(combine(7, coefficients, (4, 16)), whole)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_numbers_are_the_same_on_a_gpu() -> None:
    coefficients = torch.randn(33)
    shape, key = (8, 576), stream_key(1, "m", "A")
    here = combine(key, coefficients, shape, start_of(key, shape))
    there = combine(key, coefficients.cuda(), shape, start_of(key, shape, "cuda"))
    assert torch.equal(here, there.cpu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_of_coefficients_is_the_lora_that_it_stands_for(tiny_model: Path, tmp_path: Path, dtype: Any) -> None:
    coefficients = save_nola(tiny_model, tmp_path / "small")
    save_expanded(tiny_model, tmp_path / "large", coefficients)
    adapters = AdapterStore(tmp_path, load_base(tiny_model, dtype))
    small, large = (adapters.load(publish(tmp_path / name, tmp_path)) for name in ("small", "large"))
    assert (small.rank, sorted(small.weights)) == (RANK, sorted(TARGETS))
    for target in TARGETS:
        assert torch.equal(small.weights[target].a, large.weights[target].a)
        assert torch.equal(small.weights[target].b, large.weights[target].b)


def test_both_answer_alike_beside_a_lora_and_the_base(tiny_model: Path, tmp_path: Path) -> None:
    coefficients = save_nola(tiny_model, tmp_path / "small", size=0.5)
    save_expanded(tiny_model, tmp_path / "large", coefficients)
    digests = [publish(tmp_path / name, tmp_path) for name in ("small", "large")]
    digests.append(make_adapter(tiny_model, tmp_path))
    decoder = load_decoder(tiny_model)
    base = replace(load_base(tiny_model), is_packed=decoder.bank.is_packed)
    slots = LoraSlots(4, AdapterStore(tmp_path, base).load, decoder.bank)
    rows = [*(slots.acquire(digest) or 0 for digest in digests), -1]
    logits, replies = answer(Passes(decoder), [[5, 17, 3, 90, 40]] * 4, rows, 4)
    assert torch.equal(logits[0], logits[1])
    assert (logits[0] - logits[3]).abs().max() > 0.1
    assert replies[0] == replies[1]


Q = "base_model.model.model.layers.0.self_attn.q_proj"
REFUSALS: list[tuple[Change, str]] = [
    (lambda config, tensors: config.update(nola_generator="philox"), 'nola_generator is "philox"; the bases that are'),
    (lambda config, tensors: config.pop("nola_generator"), "nola_generator is null; the bases that are known here are"),
    (lambda config, tensors: config.pop("nola_seed"), "nola_seed is null; it must be a whole number from 0"),
    (lambda config, tensors: config.update(nola_seed=2**63), "nola_seed is 9223372036854775808; it must be"),
    (
        lambda config, tensors: config.update(nola_basis=6),
        "nola_coefficients is 2×5, and adapter_config.json m",
    ),
    (lambda config, tensors: config.update(nola_basis=4097), "nola_basis is 4097; it must be a whole number from 1"),
    (lambda config, tensors: config.update(lora_alpha=True), "lora_alpha is true; it must be a positive number"),
    (lambda config, tensors: config.update(r=65), "NOLA is expanded to a LoRA of rank 65"),
    (lambda config, tensors: config.update(use_rslora=True), 'keys that nobody here knows: "use_rslora": true'),
    (lambda config, tensors: tensors.popitem(), "has no tensors in these layers"),
    (
        lambda config, tensors: tensors.update({f"{Q}.nola_coefficients": torch.full((2, BASES), torch.inf)}),
        "hold NaN or infinity",
    ),
]


@pytest.mark.parametrize(("edit", "sentence"), REFUSALS, ids=[sentence for _, sentence in REFUSALS])
def test_damaged_coefficients_are_refused_alike_by_site_and_worker(
    tiny_model: Path, tmp_path: Path, edit: Change, sentence: str
) -> None:
    save_nola(tiny_model, tmp_path / "staging")
    change(tmp_path / "staging", edit)
    files = tmp_path / "staging" / CONFIG, tmp_path / "staging" / WEIGHTS
    found = examine_files(*files, read_architecture(tiny_model / "config.json"), 64)
    assert sentence in " ".join(found.reasons)
    with pytest.raises(AdapterRefused) as caught:
        AdapterStore(tmp_path, load_base(tiny_model)).load(publish(tmp_path / "staging", tmp_path))
    assert list(caught.value.reasons) == found.reasons


def test_a_small_file_that_would_draw_for_hours_is_refused_before_it_draws(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_nola(tiny_model, tmp_path)
    # What was found of the same bytes is kept in mind.
    (tmp_path / CONFIG).write_text((tmp_path / CONFIG).read_text() + "\n")
    monkeypatch.setattr("inference.adapters.methods.nola.MOST_NUMBERS", 12_959)
    architecture = read_architecture(tiny_model / "config.json")
    (reason,) = examine_files(tmp_path / CONFIG, tmp_path / WEIGHTS, architecture, 64).reasons
    assert reason.startswith("nola_basis is 5: 12,960 numbers would be drawn when the adapter is loaded")


def test_a_file_of_the_first_nola_code_is_refused_with_the_reason(tiny_model: Path, tmp_path: Path) -> None:
    save_nola(tiny_model, tmp_path / "staging")
    first = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["q_proj"]}
    told = first | {"use_nola": True, "nola_num_basis": 5}
    (tmp_path / "staging" / CONFIG).write_text(json.dumps(told))
    seeded = {f"{Q}.lora_A.weight": torch.zeros(3, 64), f"{Q}.lora_A.coefficients": torch.zeros(5)}
    save_file(seeded, tmp_path / "staging" / WEIGHTS)
    files = tmp_path / "staging" / CONFIG, tmp_path / "staging" / WEIGHTS
    reasons = examine_files(*files, read_architecture(tiny_model / "config.json"), 64).reasons
    assert "for which torch draws other bases on another device or in another type" in reasons[0]
