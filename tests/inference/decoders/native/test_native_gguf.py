"""A base in a GGUF file as the C++ decoder computes it, beside torch with the same groups."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from families import VARIANTS, make_family
from gguf_exports import export_gguf
from gguf_files import write_gguf
from passes import Chunk, Passes

from inference.decoders.native.bank import NativeBank
from inference.decoders.native.build import library_path
from inference.decoders.native.decoder import NativeDecoder
from inference.decoders.native.packing import pack
from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import read_architecture
from inference.model.gguf.config import config_of
from inference.model.gguf.directory import write_directory
from inference.model.gguf.file import GgufFile
from inference.model.linear import PlainLinear
from inference.model.weights import load_weights, stream_weights

DEQUANTIZING = ("amx", "neon_bf16", "neon", "portable")
MIX = {"attn_v": "Q6_K", "ffn_down": "Q6_K", "output": "Q6_K"}


def directory_of(home: Path, kind: str, tied: bool) -> Path:
    leave_out = ("output.weight",) if tied else ()
    write_gguf(home / "tiny.gguf", kind, MIX if kind == "Q4_K" else {}, leave_out=leave_out)
    (home / "tiny").mkdir()
    write_directory(home / "tiny.gguf", home / "tiny")
    return home / "tiny"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "tied"), [("Q4_0", False), ("Q4_K", False), ("Q4_K", True), ("Q8_0", True), ("Q6_K", False), ("F16", True)]
)
def test_what_a_file_has_in_groups_is_multiplied_so(tmp_path: Path, kind: str, tied: bool, dtype: torch.dtype) -> None:
    check_against_torch(directory_of(tmp_path, kind, tied), dtype)


@pytest.mark.parametrize("variant", ["qwen3", "granite", "olmo2", "phi", "phi3", "gemma2", "stablelm", "glm4"])
def test_so_is_a_file_of_another_family(tmp_path: Path, variant: str) -> None:
    full = make_family(tmp_path / "full", variant, vocab_size=320)
    (tmp_path / "tiny").mkdir()
    export_gguf(full, tmp_path / "tiny" / "model.gguf", VARIANTS[variant][0], "Q8_0")
    config = config_of(GgufFile(tmp_path / "tiny" / "model.gguf"))
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(config))
    check_against_torch(tmp_path / "tiny", torch.float32)


def check_against_torch(directory: Path, dtype: torch.dtype) -> None:
    architecture = read_architecture(directory / "config.json")
    streamed = stream_weights(directory, architecture, dtype, quantization="auto")
    native = NativeDecoder(architecture, streamed, NativeBank(2), library_path(), 16, 1)
    held = load_weights(directory, architecture, torch.float32, quantization="auto")
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
    bound = 0.06 if dtype == torch.bfloat16 else 0.003
    assert (found - wanted).norm() < bound * wanted.norm()
    # Later passes find rows that earlier ones brought, and have the same bits.
    again = Passes(native, dtype=dtype)
    assert torch.equal(again.run(Chunk(again.sequence(), ids))[0], found)


@pytest.mark.parametrize(("kind", "has_minima"), [("Q4_0", False), ("Q4_1", True)])
def test_minima_that_the_scales_tell_are_not_kept(tmp_path: Path, kind: str, has_minima: bool) -> None:
    directory = directory_of(tmp_path, kind, tied=False)
    architecture = read_architecture(directory / "config.json")
    layer = stream_weights(directory, architecture, torch.bfloat16, quantization="auto").layers[0]
    assert (pack(layer.o).mins is not None) is has_minima
