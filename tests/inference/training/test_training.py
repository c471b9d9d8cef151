"""A whole training of a tiny model, from the command line to an adapter that PEFT loads."""

from __future__ import annotations

import json
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoTokenizer

from inference.model.architecture import read_architecture
from inference.model.weights import load_weights
from inference.tasks.card import card_of, card_text
from inference.tasks.data import read_rows
from inference.tasks.embedding import of_table
from inference.tasks.recipe import Schedule, load_recipe
from inference.tasks.template import fill
from inference.tasks.vectors import embed, vector_of
from inference.training import loop, run, scoring
from inference.training.__main__ import main
from inference.training.adapter import Adapter
from inference.training.decoder import TrainingDecoder
from inference.training.examples import encode_all
from inference.training.loop import Learner, train
from inference.training.own import proposed
from inference.training.run import Cancelled, Job, train_jobs
from inference.wire.protocol import Sampling
from tests.inference.training import through_peft
from tests.inference.training.through_peft import load_base

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


def learner(base: Path, data: Path, steps: int, rate: float = 2e-2) -> tuple[TrainingDecoder, Learner]:
    architecture = read_architecture(base / "config.json")
    decoder = TrainingDecoder(architecture, load_weights(base, architecture, torch.float32))
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = encode_all(read_rows(data / "train.jsonl", ["tweet"]), RECIPE, tokenizer)
    schedule = Schedule(steps=steps, batch=8, learning_rate=rate, warmup=0.0)
    adapter = Adapter(architecture, RECIPE.lora, seed=1)
    return decoder, Learner("tweet_emotion", adapter, rows, schedule, tokenizer.eos_token_id)


def job(base: Path, data: Path, out: Path, steps: int = 6) -> Job:
    schedule = replace(RECIPE.schedule, steps=steps, batch=4)
    return Job(replace(RECIPE, schedule=schedule), data, out, base, "tiny")


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_steps_lower_the_loss(base: Path, data: Path) -> None:
    decoder, one = learner(base, data, steps=12)
    losses = []
    train(decoder, [one], lambda steps: losses.extend(step.loss for step in steps))
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 0.1


def test_only_the_adapter_learns(base: Path, data: Path) -> None:
    decoder, one = learner(base, data, steps=2)
    base_weights = [decoder.weights.embedding, decoder.weights.norm, decoder.weights.layers[0].mlp_norm]
    frozen, before = [tensor.clone() for tensor in base_weights], one.adapter.values.clone()
    train(decoder, [one])
    assert not torch.equal(one.adapter.values, before)
    assert all(torch.equal(now, kept) for now, kept in zip(base_weights, frozen, strict=True))


def test_a_cancelled_training_goes_on_to_the_same_bits(base: Path, data: Path, tmp_path: Path) -> None:
    train_jobs([job(base, data, tmp_path / "whole")], lambda step: None)
    seen: list[int] = []
    with pytest.raises(Cancelled):
        train_jobs([job(base, data, tmp_path / "parts")], lambda step: seen.append(step.number), lambda: len(seen) < 3)
    assert not (tmp_path / "parts" / "card.toml").exists()
    train_jobs([job(base, data, tmp_path / "parts")], lambda step: seen.append(step.number))
    assert seen == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "parts" / "checkpoint.pt").exists()
    whole, parts = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts")
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


def test_a_checkpoint_of_another_recipe_is_not_gone_on_with(base: Path, data: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    with pytest.raises(Cancelled):
        train_jobs([job(base, data, tmp_path, steps=4)], lambda step: seen.append(step.number), lambda: False)
    train_jobs([job(base, data, tmp_path, steps=2)], lambda step: seen.append(step.number))
    assert seen == [1, 1, 2]


def test_a_checkpoint_of_another_base_is_not_gone_on_with(base: Path, data: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    begun = job(base, data, tmp_path, steps=2)
    with pytest.raises(Cancelled):
        train_jobs([begun], lambda step: seen.append(step.number), lambda: False)
    train_jobs([replace(begun, base_name="another")], lambda step: seen.append(step.number))
    assert seen == [1, 1, 2]


def test_a_checkpoint_is_kept_after_a_while_however_slow_the_steps(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "LONGEST_SECONDS", 0.0)
    begun, kept = job(base, data, tmp_path, steps=3), list[bool]()
    train_jobs([begun], lambda step: kept.append((begun.out / "checkpoint.pt").exists()))
    assert kept == [False, True, True]


def test_a_card_keeps_what_a_template_says_to_the_letter() -> None:
    recipe = replace(RECIPE, template='Split at \\n, not at "\\":\n{tweet}\nMood:')
    card = tomllib.loads(card_text(card_of(recipe, "tiny", 1, 1.0, "a laptop")))
    assert card["prompt"]["template"] == recipe.template


def test_jobs_trained_together_end_up_as_those_trained_alone(base: Path, data: Path, tmp_path: Path) -> None:
    together = [job(base, data, tmp_path / "long", steps=4), job(base, data, tmp_path / "short", steps=2)]
    trained = train_jobs(together, lambda step: None)
    assert [it.rows for it in trained] == [32, 32]
    for name, steps in (("long", 4), ("short", 2)):
        train_jobs([job(base, data, tmp_path / f"{name}-alone", steps)], lambda step: None)
        alone = tensors_of(tmp_path / f"{name}-alone")
        for key, tensor in tensors_of(tmp_path / name).items():
            torch.testing.assert_close(tensor, alone[key], rtol=0.05, atol=2e-3)


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
    embedding = of_table(card["embedding"])
    assert embedding is not None
    learned, other = embed("t 3"), embed(RECIPE.examples[0].inputs["tweet"])
    assert vector_of(embedding) @ learned > 0.5 > vector_of(embedding) @ other
    assert (card["score"]["metric"], card["score"]["n"], card["score"]["split"]) == ("accuracy", 20, "test")
    assert 0 <= card["score"]["low"] <= card["score"]["tuned"] <= card["score"]["high"] <= 1
    assert card["score"]["gain"] in {"gain", "no clear gain"}


def test_the_engine_that_scores_says_what_peft_says(
    base: Path, data: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASE_MODELS", "other,tiny")
    monkeypatch.setenv("DTYPE", "bfloat16,tiny=float32")
    model, tokenizer = load_base(base, CPU, torch.float32)
    prompts = [fill(RECIPE.template, row.inputs) for row in read_rows(data / "test.jsonl", ["tweet"])]
    slow = through_peft.answers(PeftModel.from_pretrained(model, trained), tokenizer, prompts, max_tokens=12)
    with scoring.serving([job(base, data, trained)]) as (engine, [adapter]):
        tuned, plain = (scoring.answers(engine, who, prompts, Sampling(max_tokens=12)) for who in (adapter, None))
    # The engine keeps half a character to itself with which an answer is cut off.
    assert [text.rstrip("\ufffd") for text in tuned] == [text.rstrip("\ufffd") for text in slow]
    assert plain != tuned


def test_a_prompt_that_is_too_long_has_no_answer_and_one_that_is_wrong_ends_the_scoring(
    base: Path, data: Path, trained: Path
) -> None:
    with scoring.serving([job(base, data, trained)]) as (engine, _):
        assert scoring.answers(engine, None, ["x" * 600], Sampling(max_tokens=1)) == [""]
        with pytest.raises(ValueError, match="messages are empty"):
            scoring.answers(engine, None, [()], Sampling(max_tokens=1))


def test_an_adapter_that_is_done_is_not_trained_again(base: Path, data: Path, trained: Path) -> None:
    before = (trained / "card.toml").stat().st_mtime_ns
    assert main(command(base, data, trained)) == 0
    assert (trained / "card.toml").stat().st_mtime_ns == before


def test_a_loss_that_is_not_finite_ends_the_training(base: Path, data: Path) -> None:
    decoder, one = learner(base, data, steps=2)
    one.adapter.values.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="tweet_emotion in step 1 is nan; lower the learning rate"):
        train(decoder, [one])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"--recipe": "/nowhere.toml"}, "--recipe /nowhere.toml cannot be read"),
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
        if option in words:
            words[words.index(option) + 1] = value
        else:
            words += [option, value]
    assert main(words) == 1
    assert problem in capsys.readouterr().err


def test_a_task_without_data_or_recipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--task", "cooking", "--out", str(tmp_path)]) == 1
    assert "no recipe for the task 'cooking'" in capsys.readouterr().err


def test_rows_of_ones_own_propose_their_recipe(base: Path, tmp_path: Path) -> None:
    rows = [{"inputs": {"dish": f"soup {n}"}, "target": ("hot", "cold")[n % 2]} for n in range(40)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = proposed("my_kitchen", tmp_path, base)
    assert (found.metric, found.labels, found.field_names) == ("accuracy", ("cold", "hot"), ("dish",))
    assert found.template == "Dish: {dish}\nLabel:"
    assert found.schedule.max_length == 128


def test_a_pass_over_the_base_trains_one_adapter_at_least(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(base, data, tmp_path, "--together", "0")) == 1
    assert "a number of adapters from 1 on" in capsys.readouterr().err


def test_several_tasks_need_a_folder_each(base: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--task", "viggo", "dbpedia", "--data", str(data), "--out", "adapters", "--base", str(base)]
    assert main(words) == 1
    assert "write adapters/{task}" in capsys.readouterr().err


def test_without_a_folder_the_rows_are_fetched(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VAR_DIR", str(tmp_path / "var"))
    words = command(base, data, tmp_path / "out", "--score", "none")
    place = words.index("--data")
    del words[place : place + 2]
    (tmp_path / "var" / "datasets").mkdir(parents=True)
    data.rename(tmp_path / "var" / "datasets" / "tweet_emotion")  # as an earlier fetch left it
    assert main(words) == 0
    assert (tmp_path / "out" / "card.toml").exists()
    words[words.index("tweet_emotion")] = "legal"
    assert main(words) == 1
    assert "legal: no data set of the hub maps to it plainly" in capsys.readouterr().err


def test_one_thread_is_timed_by_the_processor_and_more_by_the_wall() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert loop._clock(torch.device("cpu")) is time.process_time
        assert loop._clock(torch.device("cuda")) is time.monotonic
        torch.set_num_threads(2)
        assert loop._clock(torch.device("cpu")) is time.monotonic
    finally:
        torch.set_num_threads(threads)
