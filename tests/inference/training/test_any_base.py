"""Training on bases of other families than our own passes compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from inference.adapters.config_file import read_config
from inference.adapters.identity import adapter_digest
from inference.adapters.store import AdapterStore
from inference.tasks.recipe import load_recipe
from inference.training import any_base
from inference.training.loop import Step
from inference.training.run import Job
from tests.inference.checkpoints import load_base
from tests.inference.families import make_family
from tests.inference.training.conftest import byte_tokenizer

RECIPE = load_recipe("tweet_emotion")
SHORT = replace(RECIPE, schedule=replace(RECIPE.schedule, steps=10, batch=4, learning_rate=3e-2))
TRAINED: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "qwen2": (("q_proj", "v_proj"), {"q_proj", "v_proj"}),
    "phi": (("q_proj", "o_proj", "gate_proj", "up_proj"), {"q_proj", "dense", "fc1"}),
    "phi3": (("q_proj", "v_proj", "down_proj"), {"qkv_proj", "down_proj"}),
    "granite": (("v_proj", "o_proj", "up_proj", "down_proj"), {"v_proj", "o_proj", "up_proj", "down_proj"}),
    "gemma2, low caps": (("down_proj",), {"down_proj"}),
}


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
