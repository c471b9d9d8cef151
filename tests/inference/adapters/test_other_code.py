"""Adapters that were trained on other code for a base, under its names: they compute what that code makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from inference.adapters.examination import Examination, examine_files
from inference.adapters.file import AdapterRefused
from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterStore
from inference.model.architecture import read_architecture
from tests.inference.checkpoints import load_base, load_reference, publish
from tests.inference.families import load_family, make_family
from tests.inference.passes import Chunk, Passes

PROMPT, LAYERS, HEADS, DIM = [5, 17, 3, 90, 40, 17, 8], 3, 4, 16
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
Parts = Callable[[Tensor], dict[str, Tensor]]
"""What the code makes of the outputs of a linear: by the names of transformers, the outputs of its linears."""


def one(name: str) -> Parts:
    return lambda outputs: {name: outputs}


def in_blocks(*names: str) -> Parts:
    """All outputs of the first, then all of the second, and so on, as many as they are."""
    return lambda outputs: dict(zip(names, outputs.chunk(len(names)), strict=True))


def of_grouped(outputs: Tensor) -> dict[str, Tensor]:
    """ChatGLM's split of queries, keys and values, of which there are half as many keys and values."""
    queries, keys, values = outputs.split([HEADS * DIM, HEADS * DIM // 2, HEADS * DIM // 2])
    return {"self_attn.q_proj": queries, "self_attn.k_proj": keys, "self_attn.v_proj": values}


def of_heads(outputs: Tensor) -> dict[str, Tensor]:
    """The split of transformers 4.36: view(heads, 3, head_dim)."""
    heads = outputs.unflatten(0, (HEADS, 3, DIM))
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    return {name: heads[:, at].flatten(0, 1) for at, name in enumerate(names)}


def of_key_heads(outputs: Tensor) -> dict[str, Tensor]:
    """InternLM2's rearrange (h gs d): of two key heads the two queries, then the key, then the value."""
    heads = outputs.unflatten(0, (2, 4, DIM))
    return {
        "self_attn.q_proj": heads[:, :2].flatten(0, 2),
        "self_attn.k_proj": heads[:, -2].flatten(0, 1),
        "self_attn.v_proj": heads[:, -1].flatten(0, 1),
    }


@dataclass(frozen=True)
class Code:
    """A variant of `families` and how other code spells and cuts its linears: `outputs` and `inputs` of each."""

    variant: str
    prefix: str
    linears: dict[str, tuple[int, int, Parts]]
    whose: str
    first: int = 0
    more: dict[str, Any] = field(default_factory=dict)


QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
MLP_OF_PHI = {"mlp.fc1": (96, 64, one("mlp.fc1")), "mlp.fc2": (64, 96, one("mlp.fc2"))}
MIXER = {"mixer.Wqkv": (192, 64, in_blocks(*QKV)), "mixer.out_proj": (64, 64, one("self_attn.dense")), **MLP_OF_PHI}
CODES = {
    "Phi-2": Code("phi", "transformer.h", MIXER, "Phi-2's first code"),
    "Phi-1.5": Code("phi", "layers", MIXER, "Phi-1.5's first code", first=1),
    "transformers 4.36": Code(
        "phi",
        "model.layers",
        {
            "self_attn.query_key_value": (192, 64, of_heads),
            "self_attn.dense": (64, 64, one("self_attn.dense")),
            **MLP_OF_PHI,
        },
        "transformers 4.36",
    ),
    "ChatGLM": Code(
        "glm",
        "transformer.encoder.layers",
        {
            "self_attention.query_key_value": (128, 64, of_grouped),
            "self_attention.dense": (64, 64, one("self_attn.o_proj")),
            "mlp.dense_h_to_4h": (192, 64, one("mlp.gate_up_proj")),
            "mlp.dense_4h_to_h": (64, 96, one("mlp.down_proj")),
        },
        "ChatGLM's own code",
        more={"head_dim": DIM},
    ),
    "Qwen": Code(
        "qwen2",
        "transformer.h",
        {
            "attn.c_attn": (192, 64, in_blocks(*QKV)),
            "attn.c_proj": (64, 64, one("self_attn.o_proj")),
            "mlp.w1": (96, 64, one("mlp.up_proj")),
            "mlp.w2": (96, 64, one("mlp.gate_proj")),
            "mlp.c_proj": (64, 96, one("mlp.down_proj")),
        },
        "the first Qwen's own code",
        more={"num_key_value_heads": HEADS},
    ),
    "Baichuan": Code(
        "llama",
        "model.layers",
        {"self_attn.W_pack": (192, 64, in_blocks(*QKV)), "mlp.up_proj": (96, 64, one("mlp.up_proj"))},
        "Baichuan's own code",
        more={"num_key_value_heads": HEADS},
    ),
    "InternLM2": Code(
        "llama",
        "model.layers",
        {
            "attention.wqkv": (128, 64, of_key_heads),
            "attention.wo": (64, 64, one("self_attn.o_proj")),
            "feed_forward.w1": (96, 64, one("mlp.gate_proj")),
            "feed_forward.w3": (96, 64, one("mlp.up_proj")),
            "feed_forward.w2": (64, 96, one("mlp.down_proj")),
        },
        "InternLM2's own code",
    ),
}


def make(directory: Path, code: Code, use_dora: bool = False, **config: Any) -> dict[str, Tensor]:
    """Save an adapter as that code has it, of rank 4, and scaled by 2; its tensors."""
    torch.manual_seed(3)
    tensors: dict[str, Tensor] = {}
    for layer in range(code.first, code.first + LAYERS):
        for path, (outputs, inputs, _) in code.linears.items():
            name = f"base_model.model.{code.prefix}.{layer}.{path}"
            tensors[f"{name}.lora_A.weight"] = 0.2 * torch.randn(4, inputs)
            tensors[f"{name}.lora_B.weight"] = 0.2 * torch.randn(outputs, 4)
            if use_dora:
                tensors[f"{name}.lora_magnitude_vector"] = 1 + 0.3 * torch.rand(outputs)
    told = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 8,
        "use_dora": use_dora,
        "bias": "none",
    }
    write(directory, tensors, told | {"target_modules": [path.rpartition(".")[2] for path in code.linears]} | config)
    return tensors


def write(directory: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    directory.mkdir(exist_ok=True)
    save_file(tensors, directory / WEIGHTS)
    (directory / CONFIG).write_text(json.dumps(config))


def merged(model: Path, code: Code, tensors: dict[str, Tensor], use_dora: bool = False) -> Any:
    """The base of transformers, each linear of which is what the code makes of its adapted linears."""
    reference: Any = load_reference(model)
    weights = dict(reference.named_parameters())
    with torch.no_grad():
        for layer in range(LAYERS):
            for path, (_, _, cut) in code.linears.items():
                name = f"base_model.model.{code.prefix}.{layer + code.first}.{path}"
                change = 2 * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
                magnitudes = cut(tensors[f"{name}.lora_magnitude_vector"]) if use_dora else {}
                for own, part in cut(change).items():
                    weight = weights[f"model.layers.{layer}.{own}.weight"]
                    weight += part
                    if use_dora:
                        weight *= (magnitudes[own] / weight.norm(dim=1)).unsqueeze(1)
    return reference


def logits_of(model: Path, store: Path, digest: str) -> Tensor:
    decoder = load_family(model)
    slot = LoraSlots(2, AdapterStore(store, load_base(model)).load, decoder.bank).acquire(digest)
    passes = Passes(decoder)
    logits, _ = passes.run(Chunk(passes.sequence(slot or 0), PROMPT), Chunk(passes.sequence(), PROMPT))
    return logits


def expected(reference: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = reference(torch.tensor([PROMPT])).logits[0]
    return logits


@pytest.mark.parametrize("use_dora", [False, True], ids=["LoRA", "DoRA"])
@pytest.mark.parametrize("name", CODES)
def test_an_adapter_of_other_code_computes_what_that_code_does(
    tmp_path: Path, store: Path, name: str, use_dora: bool
) -> None:
    code = CODES[name]
    model = make_family(tmp_path / "model", code.variant, **code.more)
    tensors = make(store / "staging", code, use_dora)
    got = logits_of(model, store, publish(store / "staging", store))
    torch.testing.assert_close(got, expected(merged(model, code, tensors, use_dora)), atol=1e-4, rtol=1e-4)
    assert (got - expected(load_reference(model))).abs().max() > 0.05


def examined(model: Path, directory: Path) -> Examination:
    architecture = read_architecture(model / "config.json")
    return examine_files(directory / CONFIG, directory / WEIGHTS, architecture, 64)


@pytest.mark.parametrize("name", CODES)
def test_its_owner_is_told_whose_names_it_has(tmp_path: Path, name: str) -> None:
    code = CODES[name]
    model = make_family(tmp_path / "model", code.variant, **code.more)
    make(tmp_path / "adapter", code)
    found = examined(model, tmp_path / "adapter")
    assert found.reasons == []
    assert found.remarks == (f"Its linears have the names of {code.whose}: they are read as those of model.",)


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": r"transformer\.h\.\d+\.(mixer\.(Wqkv|out_proj)|mlp\.fc[12])"},
        {"target_modules": "all-linear"},
        {"r": 2, "rank_pattern": {"Wqkv": 4, r"h\.\d\.mlp\..*": 4, "transformer.h.0.mixer.out_proj": 4, "out_proj": 4}},
        {"layers_to_transform": [0, 1, 2], "layers_pattern": "h"},
    ],
)
def test_its_config_speaks_of_the_names_of_that_code(tmp_path: Path, config: dict[str, Any]) -> None:
    model = make_family(tmp_path / "model", "phi")
    make(tmp_path / "adapter", CODES["Phi-2"], **config)
    assert examined(model, tmp_path / "adapter").reasons == []


def test_biases_of_a_fused_linear_and_of_a_norm_have_its_names_too(tmp_path: Path, store: Path) -> None:
    model, code = make_family(tmp_path / "model", "phi"), CODES["Phi-2"]
    make(store / "staging", code, bias="all")
    tensors = load_file(store / "staging" / WEIGHTS)
    wqkv, norm = torch.randn(192), torch.randn(64)
    tensors |= {
        f"base_model.model.transformer.h.1.{path}.bias": bias for path, bias in {"mixer.Wqkv": wqkv, "ln": norm}.items()
    }
    save_file(tensors, store / "staging" / WEIGHTS)
    reference = merged(model, code, tensors)
    with torch.no_grad():
        layer = reference.model.layers[1]
        for linear, bias in zip(("q_proj", "k_proj", "v_proj"), wqkv.chunk(3), strict=True):
            getattr(layer.self_attn, linear).bias.copy_(bias)
        layer.input_layernorm.bias.copy_(norm)
    got = logits_of(model, store, publish(store / "staging", store))
    torch.testing.assert_close(got, expected(reference), atol=1e-4, rtol=1e-4)


Damage = Callable[[dict[str, Tensor]], Any]
OTHER = "base_model.model.transformer.h.0.self_attention.query_key_value.lora_{}.weight"


@pytest.mark.parametrize(
    ("name", "variant", "change", "sentence"),
    [
        (
            "ChatGLM",
            "llama",
            lambda _: None,
            "llama has no such module, whose name is of ChatGLM's own code: transformer",
        ),
        ("Phi-2", "llama", lambda _: None, "llama has no such module, whose name is of Phi's first code of its own"),
        ("InternLM2", "qwen3", lambda _: None, "whose name is of InternLM2's own code: model.layers.0.attention.wqkv"),
        (
            "Phi-2",
            "phi",
            lambda tensors: tensors.update(
                {OTHER.format("A"): torch.zeros(4, 64), OTHER.format("B"): torch.zeros(192, 4)}
            ),
            "whose name is of Falcon's or BLOOM's code: transformer.h.0.self_attention.query_key_value",
        ),
        (
            "Phi-1.5",
            "phi",
            lambda tensors: tensors.update(
                {
                    name.replace("layers.1.", "layers.0."): tensors.pop(name)
                    for name in list(tensors)
                    if "layers.1." in name
                }
            ),
            "phi has no such module, whose name is of Phi's first code of its own: model.layers.0.mixer.Wqkv",
        ),
        (
            "Phi-2",
            "phi",
            lambda tensors: tensors.update(
                {"base_model.model.transformer.h.0.mixer.Wqkv.lora_B.weight": torch.zeros(191, 4)}
            ),
            "lora_B has 191 outputs where phi has 192: transformer.h.0.mixer.Wqkv",
        ),
        (
            "Qwen",
            "qwen2",
            lambda _: None,
            "lora_B has 192 outputs where qwen2 has 128: transformer.h.0.attn.c_attn",
        ),
    ],
)
def test_names_of_no_code_for_this_base_are_refused_with_whose_they_are(
    tmp_path: Path, store: Path, name: str, variant: str, change: Damage, sentence: str
) -> None:
    model = make_family(tmp_path / variant, variant)
    make(store / "staging", CODES[name])
    tensors = load_file(store / "staging" / WEIGHTS)
    change(tensors)
    save_file(tensors, store / "staging" / WEIGHTS)
    with pytest.raises(AdapterRefused) as caught:
        AdapterStore(store, load_base(model)).load(publish(store / "staging", store))
    assert sentence in "; ".join(caught.value.reasons)
