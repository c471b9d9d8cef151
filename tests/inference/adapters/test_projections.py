"""A VeRA that was saved without its matrices: they are drawn again, as PEFT draws them when it loads one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel, VeraConfig
from safetensors.torch import load_file

from inference.adapters.convert import main
from inference.adapters.examination import examine_files
from inference.model.architecture import read_architecture
from tests.inference.adapters.methods import CONFIG, WEIGHTS, change, save_method
from tests.inference.checkpoints import load_reference

PROMPT = torch.tensor([[5, 17, 3, 90, 40, 17, 8]])


@pytest.fixture(scope="module")
def saved(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = VeraConfig(r=6, projection_prng_key=77, save_projection=False, target_modules=["k_proj", "down_proj"])
    return save_method(tiny_model, tmp_path_factory.mktemp("vera") / "adapter", config)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "adapter"))


def test_the_matrices_are_those_that_peft_draws(tiny_model: Path, folder: Path) -> None:
    assert main([str(folder), "--base", str(tiny_model)]) == 0
    peft = PeftModel.from_pretrained(load_reference(tiny_model), folder).eval()
    written = load_file(folder / "peft" / WEIGHTS)
    assert torch.equal(written["base_model.vera_A"], peft.base_model.vera_A["default"])
    assert torch.equal(written["base_model.vera_B"], peft.base_model.vera_B["default"])
    whole = PeftModel.from_pretrained(load_reference(tiny_model), folder / "peft").eval()
    with torch.no_grad():
        assert torch.equal(whole(PROMPT).logits, peft(PROMPT).logits)
    architecture = read_architecture(tiny_model / "config.json")
    assert examine_files(folder / "peft" / CONFIG, folder / "peft" / WEIGHTS, architecture, 64).reasons == []


def test_what_is_uploaded_without_them_is_refused_with_the_way_out(tiny_model: Path, folder: Path) -> None:
    reasons = examine_files(
        folder / CONFIG, folder / WEIGHTS, read_architecture(tiny_model / "config.json"), 64
    ).reasons
    assert "`python -m inference.adapters.convert FOLDER --base MODEL` draws them again" in reasons[0]


def test_without_the_base_nothing_is_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder)]) == 1
    assert "say by --base which folder holds the model's config" in capsys.readouterr().err
    assert main([str(folder), "--base", str(folder)]) == 1
    assert "config.json is missing" in capsys.readouterr().err
    assert not (folder / "peft").exists()


def test_modules_of_another_base_and_odd_keys_are_refused(
    tiny_model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder, lambda config, tensors: config.update(projection_prng_key="77"))
    assert main([str(folder), "--base", str(tiny_model)]) == 1
    assert "projection_prng_key is '77'; it must be a whole number" in capsys.readouterr().err
    odd = "base_model.model.model.layers.9.mlp.odd.vera_lambda_b"
    change(
        folder, lambda config, tensors: (config.update(projection_prng_key=77), tensors.update({odd: torch.ones(3)}))
    )
    assert main([str(folder), "--base", str(tiny_model)]) == 1
    assert "The modules of the adapter are not those of" in capsys.readouterr().err


def test_a_torch_that_draws_other_numbers_draws_none(
    tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("inference.adapters.projections.KNOWN", (2, 1, 0))
    assert main([str(folder), "--base", str(tiny_model)]) == 1
    assert "draws other numbers than those that are known; use another version" in capsys.readouterr().err
    assert not (folder / "peft").exists()
