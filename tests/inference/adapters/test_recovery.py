"""An adapter and its linear recovery, as CA-LoRA's code saves the two, as one LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from inference.adapters.convert import main
from inference.adapters.examination import examine_files
from inference.adapters.file import AdapterRefused
from inference.adapters.store import AdapterStore
from inference.model.architecture import read_architecture
from tests.inference.adapters.methods import CONFIG, WEIGHTS, change
from tests.inference.checkpoints import load_base, load_reference, make_adapter, publish

PROMPT = [5, 17, 3, 90, 40, 17, 8]


def save_both(model: Path, folder: Path, recover: dict[str, Any]) -> Any:
    """Save an adapter and its recovery, and give the model in which both add what they add."""
    torch.manual_seed(4)
    inherit = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"])
    trained: Any = get_peft_model(load_reference(model), inherit, adapter_name="inherit")
    trained.add_adapter("recover", LoraConfig(**recover))
    for name, parameter in trained.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    trained.save_pretrained(folder)
    trained.base_model.set_adapter(["inherit", "recover"])
    return trained.eval()


RECOVERIES: dict[str, dict[str, Any]] = {
    "of the same shape": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "of other ranks and modules": {
        "r": 4,
        "lora_alpha": 3,
        "use_rslora": True,
        "target_modules": ["q_proj", "o_proj"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 2},
        "layers_to_transform": [1, 2],
    },
}


@pytest.mark.parametrize("kind", RECOVERIES)
def test_both_together_are_one_lora_that_answers_as_peft_with_both(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    both = save_both(tiny_model, tmp_path / "run", RECOVERIES[kind])
    assert main([str(tmp_path / "run")]) == 0
    found = PeftModel.from_pretrained(load_reference(tiny_model), tmp_path / "run" / "peft").eval()
    with torch.no_grad():
        expected, joined = (one(torch.tensor([PROMPT])).logits for one in (both, found))
        base = load_reference(tiny_model)(torch.tensor([PROMPT])).logits
    torch.testing.assert_close(joined, expected, atol=1e-4, rtol=1e-5)
    assert (expected - base).abs().max() > 0.1
    (tmp_path / "run" / "peft").rename(tmp_path / "staging")
    adapter = AdapterStore(tmp_path, load_base(tiny_model)).load(publish(tmp_path / "staging", tmp_path))
    assert adapter.rank == 8 + RECOVERIES[kind]["r"]


def test_pickles_of_both_are_read_as_tensors_alone(tiny_model: Path, tmp_path: Path) -> None:
    save_both(tiny_model, tmp_path, RECOVERIES["of the same shape"])
    for name in ("inherit", "recover"):
        torch.save(load_file(tmp_path / name / WEIGHTS), tmp_path / name / "adapter_model.bin")
        (tmp_path / name / WEIGHTS).unlink()
    assert main([str(tmp_path), "--to", str(tmp_path / "one")]) == 0
    assert len(load_file(tmp_path / "one" / WEIGHTS)) == 18


def test_a_recovery_of_a_dora_is_refused(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recover = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "use_dora": True}
    save_both(tiny_model, tmp_path, recover)
    assert main([str(tmp_path)]) == 1
    assert "The adapter in recover is no plain LoRA; only two of these make one." in capsys.readouterr().err
    assert not (tmp_path / "peft").exists()


def test_a_recovery_for_another_base_is_refused(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_both(tiny_model, tmp_path, RECOVERIES["of the same shape"])
    weights = tmp_path / "recover" / WEIGHTS
    save_file({name: torch.zeros(8, 8) for name in load_file(weights)}, weights)
    assert main([str(tmp_path)]) == 1
    assert "has other widths in recover than in inherit" in capsys.readouterr().err


def test_a_recovery_with_gelu_is_refused_by_its_name(tiny_model: Path, tmp_path: Path) -> None:
    make_adapter(tiny_model, tmp_path)
    (folder,) = tmp_path.iterdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_a1"
    change(folder, lambda config, tensors: tensors.update({name: torch.zeros(8, 64)}))
    (reason,) = examine_files(
        folder / CONFIG, folder / WEIGHTS, read_architecture(tiny_model / "config.json"), 64
    ).reasons
    assert reason.startswith("CA-LoRA's recovery with GELU in between is no LoRA and is not computed here")
    folder.rename(tmp_path / "staging")
    with pytest.raises(AdapterRefused, match="CA-LoRA"):
        AdapterStore(tmp_path, load_base(tiny_model)).load(publish(tmp_path / "staging", tmp_path))
