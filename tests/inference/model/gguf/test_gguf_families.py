"""A GGUF file of each family: the logits of transformers, in full and in groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import load_reference
from families import VARIANTS, make_family
from gguf_exports import export_gguf
from passes import Chunk, Passes

from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import read_architecture
from inference.model.gguf.config import config_of
from inference.model.gguf.file import GgufFile
from inference.model.gguf.header import GgufError
from inference.model.linear import Int8Linear
from inference.model.weights import load_weights

FAMILIES = {
    "llama, biases": {},
    "qwen2": {},
    "qwen2, yarn": {},
    "qwen3": {},
    "qwen3, biases, window": {"use_sliding_window": False, "layer_types": None},
    "smollm3": {"no_rope_layers": None, "num_hidden_layers": 4},
    "granite": {},
    "granite, biases, tied": {},
    "olmo2": {},
    "phi": {},
    "phi3": {},
    "phi3, short context": {},
    "phi3, long context": {},
    "gemma": {},
    "gemma2": {"query_pre_attn_scalar": 32},
    "gemma2, no caps": {"attention_bias": False, "query_pre_attn_scalar": 16},
    "gemma3": {"layer_types": None, "num_hidden_layers": 7, "query_pre_attn_scalar": 32},
    "stablelm": {},
    "glm4": {},
    "glm4, no biases": {},
}
"""Variants, and what no field of GGUF tells as it must be for the file to mean the same."""
IDS = list(range(3, 100))


def served(directory: Path, ids: list[int] = IDS, quantization: str = "none") -> torch.Tensor:
    architecture = read_architecture(directory / "config.json").within(128)
    weights = load_weights(directory, architecture, torch.float32, quantization=quantization)
    for layer in weights.layers:
        for linear in (layer.qkv, layer.o, layer.gate_up, layer.down, weights.head):
            if isinstance(linear, Int8Linear):
                linear.quantizes_rows = False  # what is compared are weights
    passes = Passes(TorchDecoder(architecture, weights, LoraBank()))
    return passes.run(Chunk(passes.sequence(), ids))[0]


def made(home: Path, variant: str, kind: str = "F32") -> tuple[Path, Path]:
    """The directory of a file, without its tokenizer, and the model that it was made of."""
    more: dict[str, Any] = FAMILIES[variant]
    full = make_family(home / "full", variant, vocab_size=320, **more)
    (home / "gguf").mkdir()
    export_gguf(full, home / "gguf" / "model.gguf", VARIANTS[variant][0], kind)
    config = config_of(GgufFile(home / "gguf" / "model.gguf"))
    (home / "gguf" / "config.json").write_text(json.dumps(config))
    return home / "gguf", full


@pytest.mark.cell("gguf", "torch")
@pytest.mark.parametrize("variant", FAMILIES)
def test_logits_are_those_of_transformers(tmp_path: Path, variant: str) -> None:
    directory, full = made(tmp_path, variant)
    with torch.inference_mode():
        wanted = load_reference(full)(torch.tensor([IDS])).logits[0]
    if "short context" in variant:
        wanted = served(full)  # transformers looks at the length of a text
    torch.testing.assert_close(served(directory), wanted, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", ["qwen2", "granite", "olmo2", "phi", "phi3", "gemma3", "stablelm", "glm4"])
def test_groups_are_kept_in_every_family(tmp_path: Path, variant: str) -> None:
    directory, _ = made(tmp_path, variant, "Q8_0")
    architecture = read_architecture(directory / "config.json")
    layer = load_weights(directory, architecture, torch.float32, quantization="auto").layers[-1]
    assert {type(linear) for linear in (layer.qkv, layer.o, layer.gate_up, layer.down)} == {Int8Linear}
    torch.testing.assert_close(served(directory, quantization="auto"), served(directory), atol=2e-4, rtol=1e-4)


def test_a_family_that_is_not_served_is_named_beside_those_that_are(tmp_path: Path) -> None:
    full = make_family(tmp_path / "full", "gemma", vocab_size=320)
    export_gguf(full, tmp_path / "model.gguf", "gemma")
    data = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(data.replace(b"gemma", b"mamba", 1))
    with pytest.raises(GgufError, match=r"holds a model of 'mamba'; served of GGUF are llama, qwen2, .*, glm4"):
        config_of(GgufFile(tmp_path / "model.gguf"))
