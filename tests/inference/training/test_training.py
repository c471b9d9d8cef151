"""A whole training of a tiny model, from the command line to an adapter that PEFT loads."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open

from inference.tasks.data import read_rows
from inference.tasks.recipe import Schedule, load_recipe
from inference.training.__main__ import main
from inference.training.examples import batches, collate, encode_all
from inference.training.loop import answer_loss, train
from inference.training.model import add_adapter, load_base
from inference.training.scoring import as_text

RECIPE = load_recipe("tweet_emotion")
CPU = torch.device("cpu")


def command(base: Path, data: Path, out: Path, *more: str) -> list[str]:
    options = {"--task": "tweet_emotion", "--data": data, "--out": out, "--base": base, "--device": "cpu"}
    return [*(str(part) for pair in options.items() for part in pair), "--steps", "3", *more]


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter trained for three steps through the command line."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [{"inputs": {"tweet": f"t {n}"}, "target": ["joy", "anger"][n % 2]} for n in range(20)]
    for name in ("train", "test"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(command(base, folder, folder / "adapter")) == 0
    return folder / "adapter"


def test_three_steps_lower_the_loss(base: Path, data: Path) -> None:
    model, tokenizer = load_base(base, CPU, torch.float32)
    rows = encode_all(read_rows(data / "train.jsonl", ["tweet"]), RECIPE, tokenizer)
    tuned = add_adapter(model, RECIPE.lora, seed=1)
    whole = collate(rows, tokenizer.eos_token_id)
    before = answer_loss(model, whole).item()
    schedule = Schedule(steps=3, batch=16, learning_rate=2e-2, warmup=0.0)
    losses = train(tuned, batches(rows, 16, 3, 1, tokenizer.eos_token_id), schedule, CPU)
    assert len(losses) == 3
    assert answer_loss(model, whole).item() < before


def test_only_the_adapter_learns(base: Path, data: Path) -> None:
    model, tokenizer = load_base(base, CPU, torch.float32)
    frozen = {name: value.clone() for name, value in model.state_dict().items()}
    rows = encode_all(read_rows(data / "train.jsonl", ["tweet"]), RECIPE, tokenizer)
    tuned = add_adapter(model, RECIPE.lora, seed=1)
    train(tuned, batches(rows, 8, 2, 1, tokenizer.eos_token_id), Schedule(steps=2), CPU)
    now = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}
    assert all(torch.equal(now[name], value) for name, value in frozen.items())


def test_the_loss_of_the_answers_is_that_of_the_whole_logits(base: Path, data: Path) -> None:
    model, tokenizer = load_base(base, CPU, torch.float32)
    rows = encode_all(read_rows(data / "train.jsonl", ["tweet"]), RECIPE, tokenizer)
    batch = collate(rows, tokenizer.eos_token_id)
    theirs = model(input_ids=batch.token_ids, attention_mask=batch.mask, labels=batch.labels).loss
    torch.testing.assert_close(answer_loss(model, batch), theirs)


def test_a_trained_adapter_loads_in_peft_and_changes_the_logits(base: Path, trained: Path) -> None:
    model, tokenizer = load_base(base, CPU, torch.float32)
    ids = torch.tensor([tokenizer("Tweet: hello\nEmotion:")["input_ids"]])
    with torch.inference_mode():
        plain = model(ids).logits
        tuned = PeftModel.from_pretrained(model, trained)(ids).logits
    assert not torch.allclose(plain, tuned, atol=1e-4)


def test_a_trained_adapter_is_small_plain_and_bf16(trained: Path) -> None:
    config = json.loads((trained / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (8, 16, ["q_proj", "v_proj"])
    with safe_open(trained / "adapter_model.safetensors", "pt") as file:
        tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert len(tensors) == 2 * 2 * 2
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def test_a_card_tells_what_was_trained_and_what_it_scored(trained: Path) -> None:
    card = tomllib.loads((trained / "card.toml").read_text())
    assert card["prompt"]["template"] == RECIPE.template
    assert [field["name"] for field in card["prompt"]["field"]] == list(RECIPE.field_names)
    assert [example["inputs"] for example in card["example"]] == [example.inputs for example in RECIPE.examples]
    assert card["training"]["steps"] == 3
    assert (card["score"]["metric"], card["score"]["n"], card["score"]["split"]) == ("accuracy", 20, "test")
    assert 0 <= card["score"]["low"] <= card["score"]["tuned"] <= card["score"]["high"] <= 1
    assert card["score"]["gain"] in {"gain", "no clear gain"}


def test_an_adapter_that_is_done_is_not_trained_again(base: Path, data: Path, trained: Path) -> None:
    before = (trained / "card.toml").stat().st_mtime_ns
    assert main(command(base, data, trained)) == 0
    assert (trained / "card.toml").stat().st_mtime_ns == before


def test_a_loss_that_is_not_finite_ends_the_training(base: Path, data: Path) -> None:
    model, tokenizer = load_base(base, CPU, torch.float32)
    rows = encode_all(read_rows(data / "train.jsonl", ["tweet"]), RECIPE, tokenizer)
    tuned = add_adapter(model, RECIPE.lora, seed=1)
    with torch.no_grad():
        next(parameter for parameter in tuned.parameters() if parameter.requires_grad).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train(tuned, batches(rows, 8, 2, 1, tokenizer.eos_token_id), replace(RECIPE.schedule, steps=2), CPU)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"--task": "cooking"}, "no recipe for the task 'cooking'"),
        ({"--data": "/nowhere"}, "--data /nowhere is not a folder"),
        ({"--base": "/nowhere"}, "run `python -m inference.fetch` first"),
        ({"--task": "viggo"}, "has the fields tweet; needed: representation"),
    ],
)
def test_a_command_that_cannot_be_done_ends_with_a_sentence(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], problem: str
) -> None:
    words = command(base, data, tmp_path / "out")
    for option, value in changes.items():
        words[words.index(option) + 1] = value
    assert main(words) == 1
    assert problem in capsys.readouterr().err


def test_several_tasks_need_a_folder_each(base: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--task", "viggo", "dbpedia", "--data", str(data), "--out", "adapters", "--base", str(base)]
    assert main(words) == 1
    assert "write adapters/{task}" in capsys.readouterr().err


def test_a_chat_reaches_the_base_through_its_chat_template(tokenizer: Any) -> None:
    assert as_text("as it is", tokenizer) == "as it is"
    assert as_text((("user", "one, "), ("assistant", "two")), tokenizer) == "one, two"
