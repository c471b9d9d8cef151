"""A NOLA learns its coefficients: the gradients of its bases' weights, steps, files and refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from inference.adapters.config_file import read_config
from inference.adapters.identity import adapter_digest
from inference.adapters.random_bases import draw, stream_key
from inference.adapters.store import AdapterStore
from inference.model.architecture import read_architecture
from inference.model.weights import load_weights
from inference.tasks.recipe import Lora, RecipeError, load_recipe, parse_recipe
from inference.tasks.recipe_text import recipe_text
from inference.training.adapter import Adapter, save_adapter
from inference.training.any_base import train
from inference.training.decoder import TrainingDecoder
from inference.training.examples import Batch, Encoded, collate
from inference.training.mixed import lay_end_to_end
from inference.training.nola import NolaAdapter
from inference.training.qlora import with_qlora
from inference.training.run import Cancelled, Job, train_jobs
from tests.inference.checkpoints import load_base
from tests.inference.families import make_family

RECIPE = load_recipe("tweet_emotion")
NOLA = Lora(rank=3, lora_alpha=6, target_modules=("q_proj", "down_proj"), nola_basis=5)
SEED = 2


@pytest.fixture
def decoder(base: Path) -> TrainingDecoder:
    architecture = read_architecture(base / "config.json")
    return TrainingDecoder(architecture, load_weights(base, architecture, torch.float32))


def random_nola(decoder: TrainingDecoder, lora: Lora = NOLA) -> NolaAdapter:
    made = NolaAdapter(decoder.architecture, lora, SEED)
    made.values.data.copy_(torch.randn(made.values.shape, generator=torch.Generator().manual_seed(4)))
    return made


def as_plain(decoder: TrainingDecoder, nola: NolaAdapter) -> Adapter:
    """The LoRA that it is now, which learns its factors themselves."""
    plain = Adapter(decoder.architecture, nola.lora, SEED)
    with torch.no_grad():
        for own, made in zip(plain.layers, nola.pairs(), strict=True):
            for target in made:
                own[target].a.copy_(made[target].a)
                own[target].b.copy_(made[target].b)
    return plain


def batch(seed: int) -> Batch:
    chance = torch.Generator().manual_seed(seed)
    rows = [Encoded(tuple(torch.randint(0, 200, (size,), generator=chance).tolist()), size - 3) for size in (9, 14, 5)]
    return collate(rows, pad_id=0)


def job(base: Path, data: Path, out: Path, steps: int = 6, lora: Lora = NOLA) -> Job:
    schedule = replace(RECIPE.schedule, steps=steps, batch=8, learning_rate=0.1, warmup=0.0)
    return Job(replace(RECIPE, schedule=schedule, lora=lora), data, out, base, "tiny")


def test_a_coefficients_gradient_is_the_product_of_its_basis_with_the_pairs(decoder: TrainingDecoder) -> None:
    nola, asked = random_nola(decoder), batch(1)
    plain = as_plain(decoder, nola)
    losses = decoder.losses(lay_end_to_end([asked, asked]), [nola, plain])
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    torch.autograd.backward(losses.sum())
    assert nola.values.grad is not None
    for index, target in enumerate(NOLA.target_modules):
        for layer, own in enumerate(plain.layers):
            module = decoder.architecture.module_name(target, layer)
            for side, factor in enumerate((own[target].a, own[target].b)):
                bases = draw(stream_key(SEED, module, "AB"[side]), 0, 5, factor.numel()).to(torch.float32)
                assert factor.grad is not None
                expected = bases @ factor.grad.flatten() / math.sqrt(5)
                torch.testing.assert_close(nola.values.grad[index, layer, side], expected, atol=1e-5, rtol=1e-3)
    assert nola.values.grad.abs().min() > 0


def test_a_fresh_one_is_the_base_and_its_first_gradient_is_of_b_alone(decoder: TrainingDecoder) -> None:
    nola = NolaAdapter(decoder.architecture, NOLA, SEED)
    none = Adapter(decoder.architecture, replace(NOLA, nola_basis=0), SEED)
    losses = decoder.losses(lay_end_to_end([batch(1), batch(1)]), [nola, none])
    assert losses[0] == losses[1]
    torch.autograd.backward(losses.sum())
    assert nola.values.grad is not None
    assert not nola.values.grad[:, :, 0].any()
    assert nola.values.grad[:, :, 1].abs().min() > 0


def test_what_learns_is_what_is_loaded(decoder: TrainingDecoder, base: Path, tmp_path: Path) -> None:
    nola = random_nola(decoder)
    nola.round()
    save_adapter(nola, "tiny", tmp_path / "staging")
    digest = adapter_digest(
        read_config(tmp_path / "staging" / "adapter_config.json"), tmp_path / "staging" / "adapter_model.safetensors"
    )
    (tmp_path / "staging").rename(tmp_path / digest)
    loaded = AdapterStore(tmp_path, load_base(base)).load(digest)
    for layer, pairs in enumerate(nola.pairs()):
        for target, pair in pairs.items():
            own = loaded.weights[target]
            torch.testing.assert_close(own.a[layer, :, :3].t(), pair.a, atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(own.b[layer, :3].t(), pair.b * 2.0, atol=1e-6, rtol=1e-5)


def test_steps_lower_the_loss(base: Path, data: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    many = Lora(rank=8, lora_alpha=16, target_modules=("q_proj", "v_proj", "down_proj"), nola_basis=64)
    train_jobs([job(base, data, tmp_path, 16, many)], lambda step: losses.append(step.loss))
    assert sum(losses[-2:]) < sum(losses[:2]) - 0.5


def test_a_training_saves_coefficients_alone_and_goes_on_to_the_same_bits(
    base: Path, data: Path, tmp_path: Path
) -> None:
    train_jobs([job(base, data, tmp_path / "whole", 12)], lambda step: None)
    seen: list[int] = []
    broken = job(base, data, tmp_path / "parts", 12)
    with pytest.raises(Cancelled):
        train_jobs([broken], lambda step: seen.append(step.number), lambda: len(seen) < 3)
    train_jobs([broken], lambda step: None)
    whole, parts_of = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "parts"))
    assert {tuple(tensor.shape) for tensor in whole.values()} == {(2, 5)}
    assert all(torch.equal(parts_of[name], tensor) for name, tensor in whole.items())
    assert "nola_basis = 5" in (tmp_path / "whole" / "card.toml").read_text()


def test_a_nola_and_a_lora_learn_in_one_pass_as_they_do_alone(base: Path, data: Path, tmp_path: Path) -> None:
    alone, beside, other = (job(base, data, tmp_path / name, 3) for name in ("alone", "beside", "other"))
    plain = replace(other, recipe=replace(other.recipe, lora=RECIPE.lora))
    first: list[float] = []
    train_jobs([alone], lambda step: first.append(step.loss))
    together: list[float] = []
    train_jobs([plain, beside], lambda step: together.append(step.loss))
    assert together[1::2] == pytest.approx(first, abs=0.02)


def test_a_recipe_says_how_many_bases(base: Path, data: Path, tmp_path: Path) -> None:
    recipe = job(base, data, tmp_path).recipe
    assert parse_recipe(recipe.task, recipe_text(recipe)).lora.nola_basis == 5
    with pytest.raises(RecipeError, match=r"nola_basis in \[lora\] is -1; it must be a whole number from 0 to 4096"):
        parse_recipe(recipe.task, recipe_text(recipe).replace("nola_basis = 5", "nola_basis = -1"))


def test_too_many_numbers_are_refused_before_they_are_drawn(
    decoder: TrainingDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.training.nola.MOST_NUMBERS", 1000)
    with pytest.raises(ValueError, match=r"nola_basis 5 means [\d,]+ random numbers, above 1,000, the most"):
        NolaAdapter(decoder.architecture, NOLA, SEED)


def test_what_peft_trains_is_no_nola(base: Path, data: Path, tmp_path: Path) -> None:
    qwen, recipe = make_family(tmp_path / "qwen2", "qwen2"), job(base, data, tmp_path).recipe
    for attempt in (partial(with_qlora, recipe), partial(train, [job(qwen, data, tmp_path)], print)):
        with pytest.raises(RecipeError, match="nola_basis asks for a NOLA, which PEFT has none of"):
            attempt()
