"""Adapters of methods besides LoRA through the site's door, which loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import peft
import pytest
from django.test import Client

from inference.adapters.config import CHECKED, OF_ANY
from inference.adapters.methods.known import METHODS
from loraland.api.entries import of_version
from loraland.catalogue.models import AdapterVersion
from tests.loraland.adapter_files import IN_OUT, Tensors, lora_config, number_bytes, write_adapter

Examined = Callable[..., AdapterVersion]
Q, V = (f"base_model.model.model.layers.0.self_attn.{target}" for target in ("q_proj", "v_proj"))


def tensors_of(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    tensors: Tensors = {}
    for name, shape in shapes.items():
        count = 1
        for size in shape:
            count *= size
        tensors[name] = ("F32", shape, number_bytes([0.1] * count, "F32"))
    return tensors


def of_each(shapes: Callable[[int, int], dict[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    """The tensors of q_proj and v_proj in layer 0, by their ends."""
    return {
        f"{module}.{end}": shape
        for module, target in ((Q, "q_proj"), (V, "v_proj"))
        for end, shape in shapes(*IN_OUT[target]).items()
    }


VERA = {"base_model.vera_A": (2, 576), "base_model.vera_B": (576, 2)}
UPLOADS: dict[str, tuple[dict[str, Any], Tensors, int]] = {
    "VeRA": (
        {"peft_type": "VERA", "save_projection": True, "projection_prng_key": 0, "d_initial": 0.1, "vera_dropout": 0.1},
        tensors_of(VERA | of_each(lambda inputs, outputs: {"vera_lambda_d": (2,), "vera_lambda_b": (outputs,)})),
        2,
    ),
    "AdaLoRA": (
        {"peft_type": "ADALORA", "init_r": 3, "lora_alpha": 4, "target_r": 2, "total_step": 9, "beta1": 0.85},
        tensors_of(
            of_each(lambda inputs, outputs: {"lora_A": (3, inputs), "lora_B": (outputs, 3), "lora_E": (3, 1)})
        ),
        3,
    ),
    "MiSS": (
        {"peft_type": "MISS", "init_weights": True, "mini_r": 1, "miss_dropout": 0.0},
        tensors_of(of_each(lambda inputs, outputs: {"miss_block": (2, outputs)})),
        2,
    ),
    "BD-LoRA": (
        {"lora_alpha": 4, "use_bdlora": {"target_modules_bd_b": ["q_proj"], "nblocks": 2, "match_strict": False}},
        tensors_of(
            {f"{Q}.lora_A.weight": (2, 576), f"{Q}.lora_B.weight": (576, 1)}
            | {f"{V}.lora_A.weight": (2, 576), f"{V}.lora_B.weight": (192, 2)}
        ),
        2,
    ),
    "VB-LoRA": (
        {"peft_type": "VBLORA", "num_vectors": 5, "vector_length": 64, "topk": 2, "init_logits_std": 0.1},
        tensors_of(
            {"base_model.vblora_vector_bank": (5, 64)}
            | of_each(lambda inputs, outputs: {
                "vblora_logits_A": (2, inputs // 64, 5), "vblora_logits_B": (outputs // 64, 2, 5)
            })
        ),
        2,
    ),
    "NOLA": (
        {"peft_type": "NOLA", "lora_alpha": 4, "nola_basis": 7, "nola_seed": 1, "nola_generator": "splitmix64-1"},
        tensors_of(of_each(lambda inputs, outputs: {"nola_coefficients": (2, 7)})),
        2,
    ),
    "MultiLoRA": (
        {"peft_type": "MULTILORA", "r": 2, "lora_alpha": 4, "lora_num": 3},
        tensors_of(of_each(lambda inputs, outputs: {
            "lora_A": (3, 2, inputs), "lora_B": (3, outputs, 2), "lora_scaling": (3, outputs)
        })),
        6,
    ),
}  # fmt: skip


def config_of(changes: dict[str, Any]) -> dict[str, Any]:
    return lora_config(**{"lora_alpha": None, "lora_dropout": None, **changes})


@pytest.mark.parametrize("method", UPLOADS)
def test_an_adapter_of_a_method_is_published_with_its_rank_and_its_name(
    method: str, examined: Examined, proven: Callable[..., AdapterVersion], tmp_path: Path, client: Client
) -> None:
    changes, tensors, rank = UPLOADS[method]
    version = proven(examined(write_adapter(tmp_path, config=config_of(changes), tensors=tensors)))
    assert version.reasons == []
    assert (version.status, version.rank, version.method) == ("published", rank, method)
    page = client.get("/adapters/emotion/").content.decode()
    assert f"<dt>Method</dt><dd>{method}</dd>" in page
    assert f"<dt>Rank</dt><dd>{rank}</dd>" in page
    about = of_version(version, "emotion")["loraland"]
    assert (about["method"], about["rank"]) == (method, rank)


def test_a_rank_past_the_limit_says_which_setting_helps(examined: Examined, tmp_path: Path) -> None:
    changes, tensors, _ = UPLOADS["VeRA"]
    version = examined(write_adapter(tmp_path, config=config_of(changes | {"r": 256}), tensors=tensors))
    assert version.status == version.Status.REJECTED
    assert "raise MAX_RANK to 256 for the site and the workers" in " ".join(version.reasons)


CONFIGS = {"VERA": peft.VeraConfig, "MISS": peft.MissConfig, "VBLORA": peft.VBLoRAConfig}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_keys_of_the_installed_peft_are_all_known(name: str) -> None:
    kind = METHODS[name]
    assert {field.name for field in fields(CONFIGS[name])} <= kind.used | kind.harmless | OF_ANY | CHECKED
