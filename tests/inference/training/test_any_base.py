"""Training on bases of other families than our own passes compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file

from inference.adapters.config_file import read_config
from inference.adapters.identity import adapter_digest
from inference.adapters.store import AdapterStore
from inference.model.architecture import read_architecture
from inference.tasks.data import read_split
from inference.tasks.recipe import Recipe, load_recipe
from inference.training import any_base
from inference.training.adapter import lora_config
from inference.training.examples import collate, encode_all
from inference.training.loop import Step
from inference.training.qlora import add_gradients, put_adapter
from inference.training.run import Job
from tests.inference.checkpoints import load_base, load_reference
from tests.inference.families import EACH, make_family
from tests.inference.training.conftest import byte_tokenizer

RECIPE = load_recipe("tweet_emotion")
SHORT = replace(RECIPE, schedule=replace(RECIPE.schedule, steps=10, batch=4, learning_rate=3e-2))
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
HALVES = {"gate_up_proj", "down_proj"}
TRAINED: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "qwen2": (("q_proj", "v_proj"), {"q_proj", "v_proj"}),
    "phi": (("q_proj", "o_proj", "gate_proj", "up_proj"), {"q_proj", "dense", "fc1"}),
    "phi3, short context": (("q_proj", "v_proj", "down_proj"), {"qkv_proj", "down_proj"}),
    "granite": (("v_proj", "o_proj", "up_proj", "down_proj"), {"v_proj", "o_proj", "up_proj", "down_proj"}),
    "gemma2, low caps": (("down_proj",), {"down_proj"}),
    **dict.fromkeys(("glm", "glm4"), (("q_proj", "o_proj", *ALL[4:]), {"q_proj", "o_proj", *HALVES})),
    **{
        variant: (ALL, set(ALL))
        for variant in EACH
        if not variant.startswith(("qwen2", "phi", "gran", "gemma2", "glm"))
    },
}


@pytest.mark.cell("gradients", "PEFT")
@pytest.mark.slow
@pytest.mark.parametrize("variant", EACH)
def test_a_step_has_the_gradients_of_the_whole_batch_through_peft(tmp_path: Path, data: Path, variant: str) -> None:
    """The step of the command computes rows one by one, and again what it did not keep; the truth is one pass."""
    tokenizer: Any = byte_tokenizer()
    base = make_family(tmp_path / "base", variant, vocab_size=len(tokenizer))
    architecture = read_architecture(base / "config.json")
    job = any_base.with_names_of(architecture, Job(wide(RECIPE), data, tmp_path, base, "tiny", torch.device("cpu")))
    rows = encode_all(read_split(data, RECIPE.task, RECIPE.field_names).train, job.recipe, tokenizer)
    model = put_adapter(any_base.load_plain(base, job.device), job.recipe.lora, seed=1, dropout=0.0).eval()
    plain: Any = get_peft_model(load_reference(base), lora_config(job.recipe.lora))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
                plain.get_parameter(name).copy_(parameter)
    batch = collate(sorted(rows, key=lambda row: len(row.token_ids))[:: len(rows) // 3], tokenizer.eos_token_id)
    loss = add_gradients(model, batch)
    whole = plain(input_ids=batch.token_ids, attention_mask=batch.mask, labels=batch.labels).loss
    whole.backward()
    assert loss == pytest.approx(whole.item(), rel=1e-4)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, plain.get_parameter(name).grad, rtol=1e-3, atol=1e-5)


def wide(recipe: Recipe) -> Recipe:
    return replace(recipe, lora=replace(recipe.lora, target_modules=ALL))


def test_a_window_that_is_shorter_than_the_rows_is_trained_through_peft(tmp_path: Path, data: Path) -> None:
    tokenizer: Any = byte_tokenizer()
    base = make_family(tmp_path / "base", "mistral", vocab_size=len(tokenizer), initializer_range=0.05)
    tokenizer.save_pretrained(base)
    recipe = replace(SHORT, schedule=replace(SHORT.schedule, steps=2))
    steps: list[Step] = []
    out = tmp_path / "adapters" / "trained"
    any_base.train([Job(recipe, data, out, base, "tiny", torch.device("cpu"))], steps.append)
    assert [step.number for step in steps] == [1, 2]
    assert (out / "adapter_model.safetensors").is_file()


@pytest.mark.cell("learns", "PEFT")
@pytest.mark.slow
@pytest.mark.parametrize("variant", TRAINED)
def test_an_adapter_of_any_family_learns_and_is_one_that_is_served(tmp_path: Path, data: Path, variant: str) -> None:
    targets, names = TRAINED[variant]
    tokenizer: Any = byte_tokenizer()
    base = make_family(tmp_path / "base", variant, vocab_size=len(tokenizer), initializer_range=0.05)
    tokenizer.save_pretrained(base)
    recipe = replace(SHORT, lora=replace(SHORT.lora, target_modules=targets))
    steps: list[Step] = []
    out = tmp_path / "adapters" / "trained"
    any_base.train([Job(recipe, data, out, base, "tiny", torch.device("cpu"))], steps.append)
    assert [step.number for step in steps] == list(range(1, 11))
    assert steps[-1].loss < steps[0].loss
    modules = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in load_file(out / "adapter_model.safetensors")}
    assert modules == names
    digest = adapter_digest(read_config(out / "adapter_config.json"), out / "adapter_model.safetensors")
    out.rename(out.parent / digest)
    assert AdapterStore(out.parent, load_base(base)).load(digest).rank == recipe.lora.rank
