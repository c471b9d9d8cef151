"""Engines over bases whose files are damaged or do not fit each other: each is refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.engine.engine import Engine
from inference.reading import Refused
from tests.inference.checkpoints import make_model
from tests.inference.engines import VOCAB, make_config, make_tokenizer

pytestmark = pytest.mark.slow

Change = Callable[[Path], object]


def config(**changes: Any) -> Change:
    def change(base: Path) -> None:
        told = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(told | changes))

    return change


def tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor] | None) -> Change:
    def damage(base: Path) -> None:
        tensors = load_file(base / "model.safetensors")
        stored = tensors.pop(name)
        save_file(tensors | ({name: change(stored)} if change else {}), base / "model.safetensors")

    return damage


def file(name: str, text: str) -> Change:
    return lambda base: (base / name).write_text(text)


UP = "model.layers.1.mlp.up_proj.weight"
BAD: dict[str, tuple[Change, str]] = {
    "no config": (lambda base: (base / "config.json").unlink(), "is not in"),
    "a config that is cut": (file("config.json", '{"architectures": ["Llama'), "config.json is not JSON"),
    "another architecture": (config(architectures=["BertModel"]), "'BertModel' is not supported"),
    "wider than its weights": (config(intermediate_size=128), "by config.json|config.json asks for"),
    "more layers": (config(num_hidden_layers=5), "more that config.json asks for"),
    "no weights": (lambda base: (base / "model.safetensors").unlink(), "holds no .safetensors file"),
    "weights that are cut": (file("model.safetensors", "cut"), "is not a readable safetensors file"),
    "a tensor is not there": (tensor(UP, None), f"has no tensor '{UP}'"),
    "a tensor of whole numbers": (tensor(UP, lambda stored: stored.to(torch.int8)), "is of type int8"),
    "no numbers": (tensor(UP, lambda stored: stored * float("nan")), "the base's logits are no numbers"),
    "numbers without end": (tensor("model.norm.weight", lambda stored: stored + float("inf")), "are no numbers"),
    "no tokenizer": (lambda base: (base / "tokenizer.json").unlink(), "has no tokenizer.json, tekken.json or"),
    "a tokenizer that is cut": (file("tokenizer.json", '{"model": '), "tokenizer.json is not JSON"),
    "another model's tokenizer": (config(vocab_size=VOCAB - 1), "beyond the|config.json asks for"),
    "an end that is none": (file("generation_config.json", '{"eos_token_id": "two"}'), "eos_token_id of generation"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("decoder", ["torch", "auto"])
def test_a_bad_base_is_refused_in_a_sentence(tmp_path: Path, name: str, decoder: str) -> None:
    change, sentence = BAD[name]
    base = make_tokenizer(make_model(tmp_path / "base", vocab_size=VOCAB))
    (tmp_path / "adapters").mkdir()
    change(base)
    with pytest.raises(Refused) as refused:
        Engine(make_config(base, tmp_path / "adapters", decoder=decoder))
    assert any(part in str(refused.value) for part in sentence.split("|"))


def test_the_same_base_is_served_undamaged(tmp_path: Path) -> None:
    base = make_tokenizer(make_model(tmp_path / "base", vocab_size=VOCAB))
    (tmp_path / "adapters").mkdir()
    Engine(make_config(base, tmp_path / "adapters")).close()
