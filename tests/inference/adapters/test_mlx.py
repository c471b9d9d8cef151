"""Adapters as mlx-lm saves them, in PEFT's form: what they compute is what MLX computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor

from inference.adapters.convert import main
from tests.inference.checkpoints import load_reference, make_model

SCALE, RANK = 1.5, 4
LAYERS = (1, 2)
"""mlx-lm trains the last ones."""
SHAPES = {"self_attn.q_proj": (64, 64), "self_attn.v_proj": (64, 32), "mlp.down_proj": (96, 64)}


def factors() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    named = {}
    for layer in LAYERS:
        for module, (into, out) in SHAPES.items():
            named[f"model.layers.{layer}.{module}.lora_a"] = torch.randn(into, RANK, generator=draw) * 0.1
            named[f"model.layers.{layer}.{module}.lora_b"] = torch.randn(RANK, out, generator=draw) * 0.1
    return named


def save_mlx(folder: Path, tensors: dict[str, Tensor], **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    config = {"fine_tune_type": "lora", "model": "mlx-community/tiny-4bit", "num_layers": len(LAYERS)}
    config |= {"lora_parameters": {"rank": RANK, "scale": SCALE, "dropout": 0.0}, **changes}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapters.safetensors")
    return folder


def fused_by_hand(model: Path, tensors: dict[str, Tensor]) -> torch.nn.Module:
    """The model with each weight changed as mlx-lm's `fuse` does: by ``(scale * lora_b.T) @ lora_a.T``, and where there
    is an m, its rows brought to that size."""
    base = load_reference(model)
    for name, weight in base.named_parameters():
        module = name.removesuffix(".weight")
        if (a := tensors.get(f"{module}.lora_a")) is None:
            continue
        weight.data += SCALE * tensors[f"{module}.lora_b"].T @ a.T
        if (size := tensors.get(f"{module}.m")) is not None:
            weight.data *= (size / weight.data.norm(dim=1))[:, None]
    return base


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_of_mlx_computes_as_a_part_of_its_base_through_peft(tmp_path: Path, kind: str) -> None:
    model, tensors = make_model(tmp_path / "model"), factors()
    if kind == "dora":
        tensors |= {
            name.replace("lora_a", "m"): torch.rand(SHAPES[".".join(name.split(".")[3:5])][1]) + 0.5
            for name in list(tensors)
            if name.endswith("lora_a")
        }
    folder = save_mlx(tmp_path / "mlx", tensors, fine_tune_type=kind)
    assert main([str(folder)]) == 0
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected = fused_by_hand(model, tensors)(ids).logits
        found = PeftModel.from_pretrained(load_reference(model), folder / "peft").eval()(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_what_is_no_adapter_of_lora_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(save_mlx(tmp_path / "full", factors(), fine_tune_type="full"))]) == 1
    assert "all weights were trained; only lora and dora are adapters" in capsys.readouterr().err
    assert main([str(save_mlx(tmp_path / "old", factors(), lora_parameters={"rank": 8, "alpha": 16}))]) == 1
    assert "says no rank and scale in lora_parameters" in capsys.readouterr().err
    parameters = {"rank": RANK, "scale": float("nan")}
    assert main([str(save_mlx(tmp_path / "nan", factors(), lora_parameters=parameters))]) == 1
    assert "has the scale nan" in capsys.readouterr().err
    assert main([str(save_mlx(tmp_path / "rank", factors(), lora_parameters={"rank": 8, "scale": 1.0}))]) == 1
    assert "with rank 8 they are [in, rank] and [rank, out]" in capsys.readouterr().err
    half = {name: tensor for name, tensor in factors().items() if name.endswith("lora_a")}
    assert main([str(save_mlx(tmp_path / "half", half))]) == 1
    assert "has lora_a; an adapter has lora_a, lora_b of each" in capsys.readouterr().err
    more = factors() | {"model.layers.0.self_attn.q_proj.weight": torch.zeros(2, 2)}
    assert main([str(save_mlx(tmp_path / "more", more))]) == 1
    assert "is no factor of LoRA" in capsys.readouterr().err
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapters.safetensors").write_bytes(b"no")
    assert main([str(tmp_path / "broken")]) == 1
    assert "cannot be read as mlx-lm's config" in capsys.readouterr().err
    assert not (tmp_path / "broken" / "peft").exists()


def test_what_could_not_be_written_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_mlx(tmp_path / "mlx", factors())
    before = sorted(folder.iterdir())

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    for part in ("json.dumps", "save_file"):
        with monkeypatch.context() as patched:
            patched.setattr(f"inference.adapters.mlx.{part}", fail)
            assert main([str(folder)]) == 1
        assert "peft could not be written: [Errno 28] No space left on device" in capsys.readouterr().err
        assert sorted(folder.iterdir()) == before
    assert main([str(folder)]) == 0


def test_a_move_that_fails_half_way_is_undone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, home = save_mlx(tmp_path / "mlx", factors()), tmp_path / "home"
    move = Path.rename

    def fail_on_weights(path: Path, target: Path) -> Path:
        if target.name == "adapter_model.safetensors":
            raise OSError(5, "Input/output error")
        return move(path, target)

    monkeypatch.setattr(Path, "rename", fail_on_weights)
    assert main([str(folder), "--to", str(home)]) == 1
    assert not home.exists()
    home.mkdir()
    assert main([str(folder), "--to", str(home)]) == 1
    assert not any(home.iterdir())
    assert capsys.readouterr().err.count("could not be written") == 2


def test_mlx_s_own_config_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_mlx(tmp_path / "mlx", factors())
    assert main([str(folder), "--to", str(folder)]) == 1
    assert "adapter_config.json is there already, and is not overwritten" in capsys.readouterr().err
