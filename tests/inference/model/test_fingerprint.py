"""What a fingerprint tells apart: workers of one fingerprint must give the same bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.config import EngineConfig
from inference.model.fingerprint import fingerprint

CONFIG = EngineConfig(Path(), "", quantization="none")


def of(directory: Path, config: EngineConfig = CONFIG, dtype: torch.dtype = torch.bfloat16, context: int = 64) -> str:
    return fingerprint(config, directory, dtype, torch.device("cpu"), context)


def test_a_copy_of_the_same_model_has_the_same_fingerprint(tiny_model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    (copy / "source.json").write_text("{}")
    assert of(copy) == of(tiny_model)
    assert of(copy).startswith("5/bf16/none/cpu-")


@pytest.mark.parametrize(
    "other",
    [
        lambda directory: of(directory, dtype=torch.float32),
        lambda directory: of(directory, replace(CONFIG, quantization="nf4")),
        lambda directory: of(directory, replace(CONFIG, block_size=16)),
        lambda directory: of(directory, context=65),
    ],
)
def test_what_shapes_the_arithmetic_changes_it(tiny_model: Path, other: Callable[[Path], str]) -> None:
    assert other(tiny_model) != of(tiny_model)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "chat_template.jinja", "tokenizer.json"])
def test_every_file_that_shapes_an_answer_changes_it(tiny_model: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    with (copy / name).open("ab") as file:
        file.write(b" ")
    assert of(copy) != of(tiny_model)


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="this torch does not tell a CPU's features")
@pytest.mark.parametrize("feature", ["amx_tile", "avx512_bf16", "l2_cache_size"])
def test_a_cpu_with_other_units_or_caches_changes_it(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, feature: str
) -> None:
    features: dict[str, Any] = torch.cpu.get_capabilities()
    before = of(tiny_model)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features | {feature: "other"})
    assert of(tiny_model) != before


def test_another_way_to_sum_changes_it(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = of(tiny_model)
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert of(tiny_model) != before


def test_a_cpu_with_more_cores_does_not_but_more_threads_do(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = of(tiny_model)
    features = getattr(torch.cpu, "get_capabilities", dict)()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features | {"num_logical_cores": 999}, raising=False)
    assert of(tiny_model) == before
    monkeypatch.setattr(torch, "get_num_threads", lambda: 999)
    assert of(tiny_model) != before
