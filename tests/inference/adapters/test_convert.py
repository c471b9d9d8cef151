"""Converting an adapter's weights to one safetensors file: from a pickle of tensors, and from parts."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.adapters.convert import main

WEIGHTS = "adapter_model.safetensors"
A, B = torch.arange(6.0).reshape(2, 3), torch.ones(3, 2, dtype=torch.bfloat16)


def test_a_pickle_of_tensors_becomes_a_file_beside_it(tmp_path: Path) -> None:
    torch.save({"x.lora_A.weight": A, "x.lora_B.weight": B, "again": A}, tmp_path / "adapter_model.bin")
    assert main([str(tmp_path)]) == 0
    found = load_file(tmp_path / WEIGHTS)
    assert torch.equal(found["x.lora_A.weight"], A)
    assert torch.equal(found["x.lora_B.weight"], B)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_model.bin", WEIGHTS]


@pytest.mark.parametrize("has_index", [True, False], ids=["with an index", "without an index"])
def test_parts_are_joined(tmp_path: Path, has_index: bool) -> None:
    names = [f"adapter_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, key, tensor in zip(names, "ab", (A, B), strict=True):
        save_file({key: tensor}, tmp_path / name)
    if has_index:
        index = {"weight_map": dict(zip("ab", names, strict=True))}
        (tmp_path / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    assert main([str(tmp_path)]) == 0
    assert sorted(load_file(tmp_path / WEIGHTS)) == ["a", "b"]


def test_a_part_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"a": A}, tmp_path / "adapter_model-00001-of-00002.safetensors")
    assert main([str(tmp_path)]) == 1
    assert "lacks the part adapter_model-00002-of-00002.safetensors" in capsys.readouterr().err


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.trace,)  # type: ignore[return-value]


def test_code_in_a_pickle_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps({"a": Evil(tmp_path / "trace")}))
    assert main([str(tmp_path)]) == 1
    assert "cannot be read as tensors alone" in capsys.readouterr().err
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / WEIGHTS).exists()


def test_what_is_no_adapter_or_is_converted_already_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "holds neither adapter_model.bin nor parts" in capsys.readouterr().err
    torch.save({"a": [1]}, tmp_path / "adapter_model.bin")
    assert main([str(tmp_path)]) == 1
    assert "more than named tensors" in capsys.readouterr().err
    save_file({"a": A}, tmp_path / WEIGHTS)
    assert main([str(tmp_path)]) == 1
    assert "is not overwritten" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "is no folder" in capsys.readouterr().err
