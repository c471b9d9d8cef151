"""QLoRA on a tiny Mistral: in plain weights everywhere, in NF4 where bitsandbytes is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import MistralConfig, MistralForCausalLM

from inference.tasks.data import read_rows
from inference.tasks.recipe import load_recipe
from inference.training.__main__ import main
from inference.training.examples import Batch, collate, encode_all
from inference.training.loop import Step
from inference.training.qlora import (
    add_gradients,
    learn,
    learner_in,
    load_quantized,
    put_adapter,
    quantization,
    single_rows,
    train_qlora,
    with_qlora,
)
from inference.training.run import Cancelled, Job

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[3]
CPU = torch.device("cpu")
RECIPE = with_qlora(load_recipe("tweet_emotion"))
SHORT = replace(RECIPE, schedule=replace(RECIPE.schedule, steps=4, learning_rate=1e-2))
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="the extra `gpu` is not installed")


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """The folder of a Mistral of toy size, with the tokenizer of bytes."""
    from tests.inference.training.conftest import byte_tokenizer

    folder, tokenizer = tmp_path_factory.mktemp("mistral"), byte_tokenizer()
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
    )
    MistralForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load_plain(folder: Path, device: torch.device) -> Any:
    return MistralForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)


def batch_of(data: Path, tokenizer: Any, count: int = 16) -> Batch:
    rows = encode_all(read_rows(data / "train.jsonl", ["tweet"]), RECIPE, tokenizer)
    return collate(rows[:count], tokenizer.eos_token_id)


def job(mistral: Path, data: Path, out: Path) -> Job:
    return Job(SHORT, data, out, mistral, "Mistral-7B-v0.1", CPU)


def gradients(model: Any) -> list[torch.Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.requires_grad]


def test_the_settings_are_those_of_the_paper() -> None:
    assert (RECIPE.lora.rank, RECIPE.lora.lora_alpha, RECIPE.lora.target_modules) == (8, 16, ("q_proj", "v_proj"))
    assert (RECIPE.schedule.batch, RECIPE.schedule.warmup) == (16, 0.03)
    assert RECIPE.schedule.steps == load_recipe("tweet_emotion").schedule.steps
    config = quantization()
    assert config.quantization_method() == "nf4"
    assert config.bnb_4bit_compute_dtype == torch.bfloat16


def test_a_base_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="holds no safetensors, on which QLoRA trains"):
        load_quantized(tmp_path, CPU)


def test_rows_one_by_one_have_the_gradients_of_one_batch(mistral: Path, data: Path, tokenizer: Any) -> None:
    batch = batch_of(data, tokenizer)
    model = put_adapter(load_plain(mistral, CPU), RECIPE.lora, seed=1).eval()
    with torch.no_grad():  # where B is zero, A has no gradient
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    loss = add_gradients(model, batch)
    one_by_one = [gradient.clone() for gradient in gradients(model)]
    model.zero_grad()
    whole = model(input_ids=batch.token_ids, attention_mask=batch.mask, labels=batch.labels).loss
    whole.backward()
    assert loss == pytest.approx(whole.item(), rel=1e-5)
    for ours, theirs in zip(one_by_one, gradients(model), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_a_single_row_has_no_padding(data: Path, tokenizer: Any) -> None:
    batch = batch_of(data, tokenizer, 2)
    rows = list(single_rows(batch))
    assert [row.token_ids.shape[1] for row in rows] == batch.mask.sum(dim=1).tolist()
    assert all(row.mask.all() for row in rows)


def test_only_the_adapter_learns_and_its_loss_falls(mistral: Path, data: Path, tokenizer: Any) -> None:
    base = load_plain(mistral, CPU)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    rows = encode_all(read_rows(data / "train.jsonl", ["tweet"]), SHORT, tokenizer)
    learner = learner_in(base, SHORT, rows, tokenizer.eos_token_id)
    losses = [learn(learner).loss for _ in range(4)]
    assert learner.is_done
    assert losses[-1] < losses[0]
    after = {name.replace(".base_layer", ""): value for name, value in base.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_training_that_was_cancelled_goes_on_to_the_same_adapter(mistral: Path, data: Path, tmp_path: Path) -> None:
    steps: list[Step] = []
    train_qlora(job(mistral, data, tmp_path / "whole"), steps.append, load=load_plain)
    again: list[Step] = []
    interrupted = job(mistral, data, tmp_path / "interrupted")
    with pytest.raises(Cancelled):
        train_qlora(interrupted, again.append, is_wanted=lambda: len(again) < 2, load=load_plain)
    assert (interrupted.out / "checkpoint.pt").exists()
    trained = train_qlora(interrupted, again.append, load=load_plain)
    assert again == steps
    assert trained.rows == 32
    whole, resumed = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "interrupted"))
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    assert not (interrupted.out / "checkpoint.pt").exists()


def test_what_is_saved_is_an_adapter_with_a_card(mistral: Path, data: Path, tmp_path: Path) -> None:
    train_qlora(job(mistral, data, tmp_path), lambda step: None, load=load_plain)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    card = tomllib.loads((tmp_path / "card.toml").read_text())
    assert card["base"] == "Mistral-7B-v0.1"
    assert (card["training"]["learning_rate"], card["training"]["batch"]) == (1e-2, 16)


def test_a_loss_that_is_not_finite_ends_the_training(mistral: Path, data: Path, tokenizer: Any) -> None:
    base = load_plain(mistral, CPU)
    rows = encode_all(read_rows(data / "train.jsonl", ["tweet"]), SHORT, tokenizer)
    with torch.no_grad():
        base.lm_head.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss of tweet_emotion in step 1 is nan"):
        learn(learner_in(base, SHORT, rows, tokenizer.eos_token_id))


@needs_bitsandbytes
def test_a_base_in_nf4_is_a_quarter_of_its_size_and_learns(mistral: Path, data: Path, tokenizer: Any) -> None:
    base = load_quantized(mistral, CPU)
    weight = base.model.layers[0].mlp.down_proj.weight
    assert (weight.dtype, weight.numel()) == (torch.uint8, 64 * 128 // 2)
    rows = encode_all(read_rows(data / "train.jsonl", ["tweet"]), SHORT, tokenizer)
    learner = learner_in(base, SHORT, rows, tokenizer.eos_token_id)
    losses = [learn(learner).loss for _ in range(4)]
    assert losses[-1] < losses[0]


@needs_bitsandbytes
def test_the_command_trains_by_qlora(mistral: Path, data: Path, tmp_path: Path) -> None:
    command = ["--qlora", "--task", "tweet_emotion", "--base", str(mistral), "--device", "cpu", "--steps", "2"]
    assert main([*command, "--data", str(data), "--out", str(tmp_path), "--score", "none"]) == 0
    card = tomllib.loads((tmp_path / "card.toml").read_text())
    assert (card["training"]["learning_rate"], card["training"]["steps"]) == (2e-4, 2)


def test_qlora_without_its_package_says_what_to_install(
    mistral: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("inference.training.qlora.find_spec", lambda name: None)
    command = [
        "--qlora",
        "--task",
        "tweet_emotion",
        "--base",
        str(mistral),
        "--data",
        str(data),
        "--out",
        str(tmp_path),
    ]
    assert main(command) == 1
    assert "QLoRA needs the package bitsandbytes; run `pip install 'loraland[gpu]'`" in capsys.readouterr().err
    assert main([*command, "--together", "2"]) == 1
    assert "--qlora trains one adapter at a time" in capsys.readouterr().err


@needs_bitsandbytes
@pytest.mark.slow
def test_its_figures_can_be_taken_at_toy_size() -> None:
    command = [sys.executable, "-m", "tests.bench.qlora", "--tiny", "--steps", "1"]
    run = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    figures = json.loads(run.stdout.splitlines()[-1])
    assert (figures["tiny"], figures["rows"], figures["tokens_a_row"]) == (True, 16, 32)
