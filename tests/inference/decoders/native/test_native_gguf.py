"""A base in few bits as the C++ decoder computes it, beside torch with the same groups."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import EACH, VARIANTS, make_family
from gguf_exports import export_gguf
from gguf_files import write_gguf
from passes import Chunk, Passes
from quantized_models import KINDS, save_quantized

from inference.decoders.native.bank import NativeBank
from inference.decoders.native.build import library_path, missing_feature
from inference.decoders.native.decoder import NativeDecoder
from inference.decoders.native.library import open_library, units_of
from inference.decoders.native.packing import pack
from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import Architecture, read_architecture
from inference.model.gguf.config import config_of
from inference.model.gguf.directory import write_directory
from inference.model.gguf.file import GgufFile
from inference.model.linear import GROUP, CodedLinear, PlainLinear
from inference.model.weights import DecoderWeights, LayerWeights, load_weights, stream_weights

HERE = units_of(open_library(library_path())) if missing_feature() is None else []
DEQUANTIZING = ("neon", "portable")
IN_FILES = (
    *("llama, biases", "qwen2", "qwen3", "smollm3", "granite", "olmo2", "phi", "phi3", "gemma", "gemma2", "gemma3"),
    *("stablelm", "glm4"),
)
"""One of each family that GGUF has."""
MIX = {"attn_v": "Q6_K", "ffn_down": "Q6_K", "output": "Q6_K"}


def directory_of(home: Path, kind: str, tied: bool) -> Path:
    leave_out = ("output.weight",) if tied else ()
    write_gguf(home / "tiny.gguf", kind, MIX if kind == "Q4_K" else {}, leave_out=leave_out)
    (home / "tiny").mkdir()
    write_directory(home / "tiny.gguf", home / "tiny")
    return home / "tiny"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "tied"),
    [
        *(("Q4_0", False), ("Q4_K", False), ("Q4_K", True), ("Q5_0", False), ("Q5_1", True), ("Q5_K", False)),
        *(("Q8_0", True), ("Q6_K", False), ("F16", True)),
    ],
)
def test_what_a_file_has_in_groups_is_multiplied_so_on_every_unit(
    tmp_path: Path, kind: str, tied: bool, dtype: torch.dtype
) -> None:
    directory = directory_of(tmp_path, kind, tied)
    for unit in HERE:
        check_against_torch(directory, dtype, unit)


@pytest.mark.cell("gguf", "C++")
@pytest.mark.parametrize("variant", IN_FILES)
def test_so_is_a_file_of_another_family(tmp_path: Path, variant: str) -> None:
    full = make_family(tmp_path / "full", variant, vocab_size=320)
    (tmp_path / "tiny").mkdir()
    export_gguf(full, tmp_path / "tiny" / "model.gguf", VARIANTS[variant][0], "Q8_0")
    config = config_of(GgufFile(tmp_path / "tiny" / "model.gguf"))
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(config))
    check_against_torch(tmp_path / "tiny", torch.float32)


@pytest.mark.cell("{kind}", "C++")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gptq", "awq", "nested nf4", "llm.int8"])
@pytest.mark.parametrize("variant", EACH)
def test_so_is_every_family_that_was_quantised_elsewhere(tmp_path: Path, variant: str, kind: str) -> None:
    config, make, _, _ = KINDS[kind]
    full = make_family(tmp_path / "full", variant, vocab_size=320, intermediate_size=128)
    save_quantized(full, tmp_path / "tiny", config, make())
    check_against_torch(tmp_path / "tiny", torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_is_a_base_in_nf4_on_every_unit(tmp_path: Path, dtype: torch.dtype) -> None:
    directory = make_family(tmp_path, "llama", vocab_size=320)
    architecture = read_architecture(directory / "config.json")
    layers, whole = (load_weights(directory, architecture, of) for of in (dtype, torch.float32))
    for unit in HERE:
        check_weights(architecture, in_nf4(layers), in_nf4(whole), dtype, unit)


def in_nf4(weights: DecoderWeights) -> DecoderWeights:
    return replace(weights, layers=[_layer_in_nf4(layer) for layer in weights.layers])


def _layer_in_nf4(layer: LayerWeights) -> LayerWeights:
    names = ("qkv", "o", "gate_up", "down")
    return replace(layer, **{name: _coded(getattr(layer, name).weight, seed) for seed, name in enumerate(names)})


def _coded(weight: torch.Tensor, seed: int) -> CodedLinear:
    """Random levels of about the size of `weight`."""
    draw, (out, into) = torch.Generator().manual_seed(seed), weight.shape
    pairs = torch.randint(0, 256, (out, into // 2), generator=draw, dtype=torch.uint8)
    scales = (torch.rand((out, into // GROUP), generator=draw) + 0.5) * float(weight.float().std()) / 60
    return CodedLinear.of_parts(pairs, scales.to(torch.float16))


def check_against_torch(directory: Path, dtype: torch.dtype, unit: str = "auto") -> None:
    architecture = read_architecture(directory / "config.json")
    streamed = stream_weights(directory, architecture, dtype, quantization="auto")
    held = load_weights(directory, architecture, torch.float32, quantization="auto")
    check_weights(architecture, streamed, held, dtype, unit)


def check_weights(
    architecture: Architecture, streamed: DecoderWeights, held: DecoderWeights, dtype: torch.dtype, unit: str
) -> None:
    """The native decoder computes `streamed` in `dtype` as torch does `held` in float32."""
    native = NativeDecoder(architecture, streamed, NativeBank(2), library_path(), 16, 1, unit)
    for layer in held.layers:
        for linear in (layer.qkv, layer.o, layer.gate_up, layer.down, held.head):
            if not isinstance(linear, PlainLinear):
                linear.quantizes_rows = native.unit not in DEQUANTIZING  # type: ignore[attr-defined]
    ids = [5, 6, 7, 300, 5, 11, 0, 319]
    found, wanted = (
        passes.run(Chunk(passes.sequence(), ids))[0]
        for passes in (
            Passes(native, dtype=dtype),
            Passes(TorchDecoder(architecture, held, LoraBank()), dtype=torch.float32),
        )
    )
    # Where rows are quantised a last bit moves some by a level, and torch's own logits by up to 0.016 of their norm.
    bound = 0.06 if dtype == torch.bfloat16 else 0.003 if native.unit in DEQUANTIZING else 0.03
    assert (found - wanted).norm() < bound * wanted.norm()
    # Later passes find rows that earlier ones brought, and have the same bits.
    again = Passes(native, dtype=dtype)
    assert torch.equal(again.run(Chunk(again.sequence(), ids))[0], found)


@pytest.mark.parametrize(("kind", "has_minima"), [("Q4_0", False), ("Q4_1", True), ("Q5_0", False), ("Q5_1", True)])
def test_minima_that_the_scales_tell_are_not_kept(tmp_path: Path, kind: str, has_minima: bool) -> None:
    directory = directory_of(tmp_path, kind, tied=False)
    architecture = read_architecture(directory / "config.json")
    layer = stream_weights(directory, architecture, torch.bfloat16, quantization="auto").layers[0]
    assert (pack(layer.o).mins is not None) is has_minima
