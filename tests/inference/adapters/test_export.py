"""An adapter of any method written as the plain LoRA that it is expanded to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from inference.adapters.export import main
from inference.adapters.store import AdapterStore
from tests.inference.adapters.methods import CONFIG, change, save_method
from tests.inference.adapters.test_methods import METHODS, save_multilora
from tests.inference.adapters.test_nola import save_nola
from tests.inference.checkpoints import load_base, load_reference, make_adapter, publish

PROMPT = torch.tensor([[5, 17, 3, 90, 40, 17, 8]])


@pytest.mark.parametrize("method", [*METHODS, "NOLA", "MultiLoRA"])
def test_the_lora_is_the_adapter_as_it_is_loaded(tiny_model: Path, tmp_path: Path, method: str) -> None:
    folder, lora = tmp_path / "staging", tmp_path / "lora"
    if method in METHODS:
        save_method(tiny_model, folder, METHODS[method])
    else:
        (save_nola if method == "NOLA" else save_multilora)(tiny_model, folder)
    assert main([str(folder), "--base", str(tiny_model), "--to", str(lora)]) == 0
    with torch.no_grad():
        answers = PeftModel.from_pretrained(load_reference(tiny_model), lora).eval()(PROMPT).logits
        if method in METHODS:
            expected = PeftModel.from_pretrained(load_reference(tiny_model), folder).eval()(PROMPT).logits
            torch.testing.assert_close(answers, expected, atol=1e-4, rtol=1e-5)
        assert (answers - load_reference(tiny_model)(PROMPT).logits).abs().max() > 0.1
    adapters = AdapterStore(tmp_path, load_base(tiny_model, torch.bfloat16))
    own, plain = (adapters.load(publish(path, tmp_path)) for path in (folder, lora))
    assert (own.rank, sorted(own.weights)) == (plain.rank, sorted(plain.weights))
    for target, pair in own.weights.items():
        assert torch.equal(pair.a, plain.weights[target].a)
        assert torch.equal(pair.b, plain.weights[target].b)


def test_the_lora_is_invoked_by_what_invoked_the_adapter(tiny_model: Path, tmp_path: Path) -> None:
    blocks = save_method(tiny_model, tmp_path / "blocks", METHODS["BD-LoRA"])
    change(blocks, lambda config, tensors: config.update(alora_invocation_tokens=[5, 17]))
    assert main([str(blocks), "--base", str(tiny_model)]) == 0
    assert json.loads((blocks / "lora" / CONFIG).read_text())["alora_invocation_tokens"] == [5, 17]


def test_what_has_no_plain_lora_is_refused(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vera = save_method(tiny_model, tmp_path / "vera", METHODS["VeRA"])
    plain = tmp_path / make_adapter(tiny_model, tmp_path)
    base = ["--base", str(tiny_model)]
    assert main([str(plain), *base]) == 1
    assert "is a LoRA already." in capsys.readouterr().err
    assert main([str(vera), *base, "--to", str(plain)]) == 1
    assert "holds an adapter already, and is not overwritten." in capsys.readouterr().err
    assert main([str(vera), "--base", str(tmp_path)]) == 1
    assert "config.json is missing" in capsys.readouterr().err
    change(vera, lambda config, tensors: config.update(r=7))
    assert main([str(vera), *base]) == 1
    assert "is refused: vera_A is 6×96, and adapter_config.json means 7×any" in capsys.readouterr().err
    assert json.loads((vera / CONFIG).read_text())["r"] == 7
    assert not (vera / "lora").exists()
