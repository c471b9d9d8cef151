"""An aLoRA learns: from its invocation on alone, by PEFT's gradients, into a file that answers; and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model, set_peft_model_state_dict
from torch import Tensor

from inference.adapters.invocation import KEY, place_of
from inference.model.architecture import TARGETS, read_architecture
from inference.model.weights import load_weights
from inference.tasks.data import read_rows
from inference.tasks.recipe import Lora, RecipeError, load_recipe, parse_recipe
from inference.tasks.recipe_text import recipe_text
from inference.training.adapter import Adapter, lora_config
from inference.training.any_base import train
from inference.training.decoder import TrainingDecoder
from inference.training.examples import IGNORED, Batch, Encoded, collate, encode_all
from inference.training.mixed import lay_end_to_end
from inference.training.qlora import with_qlora
from inference.training.run import Job, train_jobs
from inference.training.scoring import answers, serving
from inference.wire.protocol import Sampling
from tests.inference.checkpoints import load_reference
from tests.inference.families import make_family

RECIPE = load_recipe("tweet_emotion")
INVOCATION = (201, 7, 202)
"""The outer two are in no text, as control tokens are not."""
WORDS = "\nEmotion:"
WIDE = Lora(rank=2, lora_alpha=16, target_modules=TARGETS)


@pytest.fixture
def decoder(base: Path) -> TrainingDecoder:
    architecture = read_architecture(base / "config.json")
    return TrainingDecoder(architecture, load_weights(base, architecture, torch.float32))


def adapter(decoder: TrainingDecoder, seed: int = 1) -> Adapter:
    """One whose B is not zero, so that all of it matters."""
    made = Adapter(decoder.architecture, WIDE, seed, invocation=INVOCATION)
    made.values.add_(torch.randn(made.values.shape, generator=torch.Generator().manual_seed(seed)) * 0.1)
    return made


def invoked(seed: int = 1) -> Batch:
    """Rows that are invoked early, late, at their first token, and twice, of which the last counts."""
    chance, rows = torch.Generator().manual_seed(seed), []
    for before, between in ((3, 9), (11, 2), (0, 4), (5, 6)):
        first, second = (torch.randint(0, 200, (size,), generator=chance).tolist() for size in (before, between))
        again = INVOCATION if between == 6 else ()
        ids = (*first, *again, *INVOCATION, *second, 5, 6)
        rows.append(Encoded(ids, len(ids) - 2, place_of(INVOCATION, ids)))
    return collate(rows, pad_id=0)


def truth(base: Path, tuned: Adapter, asked: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and the gradients of PEFT's aLoRA of the same values."""
    config = lora_config(WIDE)
    config.alora_invocation_tokens = list(INVOCATION)
    model: Any = get_peft_model(load_reference(base), config)
    set_peft_model_state_dict(model, dict(tuned.named_tensors()))
    loss = model(input_ids=asked.token_ids, attention_mask=asked.mask, labels=asked.labels).loss
    loss.backward()
    named = model.named_parameters()
    return loss.detach(), {name.replace(".default", ""): each.grad for name, each in named if "lora_" in name}


def test_losses_and_gradients_are_those_of_peft(base: Path, decoder: TrainingDecoder) -> None:
    tuned, asked = adapter(decoder), invoked()
    losses = decoder.losses(lay_end_to_end([asked]), [tuned])
    torch.autograd.backward(losses.sum())
    theirs, named = truth(base, tuned, asked)
    torch.testing.assert_close(losses[0].detach(), theirs)
    for layer, pairs in enumerate(tuned.layers):
        for target, pair in pairs.items():
            (found,) = {name for name in named if f"layers.{layer}." in name and f"{target}.lora_A" in name}
            torch.testing.assert_close(pair.a.grad, named[found], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(pair.b.grad, named[found.replace("_A", "_B")], rtol=1e-4, atol=1e-6)


def test_tokens_before_the_invocation_are_foretold_by_the_base_to_the_bit(decoder: TrainingDecoder) -> None:
    asked = invoked()
    before = torch.arange(asked.token_ids.shape[1]) < torch.tensor(asked.invoked_at)[:, None]
    early = replace(asked, labels=torch.where(before, asked.token_ids, IGNORED))
    fresh = Adapter(decoder.architecture, WIDE, 1)
    tuned, plain = (decoder.losses(lay_end_to_end([early]), [each]) for each in (adapter(decoder), fresh))
    assert torch.equal(tuned, plain)
    later = lay_end_to_end([asked])
    assert not torch.equal(decoder.losses(later, [adapter(decoder)]), decoder.losses(later, [fresh]))


def test_it_learns_beside_a_plain_one_what_it_learns_alone(decoder: TrainingDecoder) -> None:
    asked = invoked()
    plain = Batch(asked.token_ids, asked.mask, asked.labels)
    together, alone, beside = adapter(decoder, 1), adapter(decoder, 1), adapter(decoder, 2)
    torch.autograd.backward(decoder.losses(lay_end_to_end([plain, asked]), [beside, together]).sum())
    torch.autograd.backward(decoder.losses(lay_end_to_end([asked]), [alone]).sum())
    torch.testing.assert_close(together.values.grad, alone.values.grad, rtol=1e-4, atol=1e-6)


def job(base: Path, data: Path, out: Path, **lora: Any) -> Job:
    schedule = replace(RECIPE.schedule, steps=12, batch=8, learning_rate=0.05, warmup=0.0)
    shape = Lora(**{"rank": 4, "lora_alpha": 16, "target_modules": TARGETS, "invocation": WORDS, **lora})
    return Job(replace(RECIPE, schedule=schedule, lora=shape), data, out, base, "tiny")


def test_a_trained_file_answers_from_its_invocation_on(base: Path, data: Path, tmp_path: Path, tokenizer: Any) -> None:
    losses: list[float] = []
    made = job(base, data, tmp_path / "out")
    train_jobs([made], lambda step: losses.append(step.loss))
    assert losses[-1] < losses[0] - 0.1
    config = json.loads((made.out / "adapter_config.json").read_text())
    assert config[KEY] == tokenizer(WORDS)["input_ids"]
    assert "invocation" in (made.out / "card.toml").read_text()
    with serving([made]) as (engine, [ref]):
        short = Sampling(max_tokens=6)
        asked, other = "Tweet: hooray 3" + WORDS, "Tweet: hooray 3"
        tuned, plain = (answers(engine, who, [asked, other], short) for who in (ref, None))
    assert tuned[0] != plain[0]
    assert tuned[1] == plain[1]


def test_each_row_begins_to_act_where_its_prompt_invokes_it(
    base: Path, data: Path, tmp_path: Path, tokenizer: Any
) -> None:
    made = job(base, data, tmp_path)
    [first, *_] = encode_all(read_rows(data / "train.jsonl"), made.recipe, tokenizer)
    assert first.invoked_at == first.start - len(tokenizer(WORDS)["input_ids"])


def test_a_recipe_says_what_invokes_it(base: Path, data: Path, tmp_path: Path) -> None:
    recipe = job(base, data, tmp_path).recipe
    assert parse_recipe(recipe.task, recipe_text(recipe)).lora.invocation == WORDS
    assert parse_recipe(RECIPE.task, recipe_text(RECIPE)).lora.invocation is None


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ({"invocation": ""}, r"invocation in \[lora\] is '', which invokes nothing"),
        ({"invocation": "\n"}, "which invokes nothing; write words of the prompt, or leave it out"),
        ({"invocation": "Judge:"}, "the prompt does not hold the invocation 'Judge:', so the adapter would never"),
        ({"invocation": "Tweet: {tweet}"}, "does not hold the invocation"),
        ({"nola_basis": 4}, r"nola_basis and invocation are both in \[lora\]"),
    ],
)
def test_what_would_never_be_active_is_refused(base: Path, data: Path, tmp_path: Path, lora: Any, words: str) -> None:
    recipe = job(base, data, tmp_path, **lora).recipe
    with pytest.raises(RecipeError, match=words):
        parse_recipe(recipe.task, recipe_text(recipe))


def test_tokens_that_a_prompt_does_not_hold_are_refused_before_anything_learns(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.training.examples.invocation_of", lambda recipe, tokenizer: (1, 2, 3))
    with pytest.raises(ValueError, match=r"the prompt of a row does not hold the tokens of .*Emotion:.*joined with"):
        train_jobs([job(base, data, tmp_path)], lambda step: None)


def test_an_invocation_of_too_many_tokens_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    words = "x" * 300
    made = job(base, data, tmp_path, invocation=words)
    made = replace(made, recipe=replace(made.recipe, template="{tweet}" + words))
    with pytest.raises(ValueError, match="the invocation has 300 tokens; at most 256"):
        train_jobs([made], lambda step: None)


def test_what_peft_trains_is_no_alora(base: Path, data: Path, tmp_path: Path) -> None:
    qwen, recipe = make_family(tmp_path / "qwen2", "qwen2"), job(base, data, tmp_path).recipe
    for attempt in (partial(with_qlora, recipe), partial(train, [job(qwen, data, tmp_path)], print)):
        with pytest.raises(RecipeError, match="invocation asks for an aLoRA"):
            attempt()
