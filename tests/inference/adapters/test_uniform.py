"""Adapters of like modules are read all at once: to the bits of those that are read module by module, or not so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import load_base, make_adapter, publish
from safetensors.torch import load_file, save_file

from inference.adapters import file
from inference.adapters.file import AdapterRefused, read_adapter
from inference.adapters.weights import AdapterWeights

ALIKE: dict[str, dict[str, Any]] = {
    "attention": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "a rank for each target": {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"q_proj": 16}},
    "a scaling for each layer": {"alpha_pattern": {"layers.1.self_attn.q_proj": 24}},
    "rslora": {"use_rslora": True, "r": 24},
}
OTHERS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "one layer": {"layers_to_transform": [1]},
    "a rank for each layer": {"rank_pattern": {"layers.1.self_attn.q_proj": 16}},
    "a rank that is padded": {"r": 4},
    "a table": {"target_modules": ["q_proj", "embed_tokens"]},
    "shifts": {"lora_bias": True},
}


def read(folder: Path, model: Path, dtype: torch.dtype, is_packed: bool) -> AdapterWeights:
    base = dataclasses.replace(load_base(model, dtype), is_packed=is_packed)
    return read_adapter(folder, folder.name, base, 64).weights


def in_memory(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_strided((tensor.numel(),), (1,))


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", [*ALIKE, *OTHERS])
def test_both_ways_of_reading_give_the_same_bits(
    name: str, dtype: torch.dtype, is_packed: bool, tiny_model: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store / make_adapter(tiny_model, store, **(ALIKE | OTHERS)[name])
    asked = []
    quick = file.read_uniform
    monkeypatch.setattr(file, "read_uniform", lambda *given: asked.append(quick(*given)) or asked[-1])
    once = read(folder, tiny_model, dtype, is_packed)
    assert (asked[0] is not None) == (name in ALIKE)
    monkeypatch.setattr(file, "read_uniform", lambda *_: None)
    slow = read(folder, tiny_model, dtype, is_packed)
    assert list(once) == list(slow)
    for target, pair in slow.items():
        for side, tensor in pair.parts.items():
            mine = once[target].parts[side]
            assert (mine.dtype, mine.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(mine, tensor)
            assert torch.equal(in_memory(mine), in_memory(tensor)), "a decoder reads it by address"


@pytest.mark.parametrize(("value", "told"), [(float("nan"), "NaN or infinity"), (1e38, "overflow")])
def test_numbers_that_are_none_or_become_so_are_refused(value: float, told: str, tiny_model: Path, store: Path) -> None:
    staging = store / make_adapter(tiny_model, store, lora_alpha=4096)
    weights = load_file(staging / "adapter_model.safetensors")
    next(tensor for name, tensor in weights.items() if "lora_B" in name)[3, 3] = value
    save_file(weights, staging / "adapter_model.safetensors")
    folder = store / publish(staging, store)
    with pytest.raises(AdapterRefused, match=told):
        read(folder, tiny_model, torch.bfloat16, is_packed=False)


def test_what_is_known_of_one_file_is_not_taken_for_another(tiny_model: Path, store: Path) -> None:
    """The same names and shapes with another config, and the same config for another base."""
    folder = store / make_adapter(tiny_model, store)
    base = load_base(tiny_model)
    read_adapter(folder, folder.name, base, 64)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"r": 16}))
    with pytest.raises(AdapterRefused, match=r"The rank is 8 but adapter_config\.json says 16"):
        read_adapter(folder, folder.name, base, 64)
    path.write_text(json.dumps(config))
    narrower = dataclasses.replace(base.architecture, num_layers=2)
    with pytest.raises(AdapterRefused, match="has no such module"):
        read_adapter(folder, folder.name, dataclasses.replace(base, architecture=narrower), 64)
    with pytest.raises(AdapterRefused, match="from 1 to 4"):
        read_adapter(folder, folder.name, base, 4)
