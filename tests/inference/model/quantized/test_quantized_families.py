"""Every family in fewer bits, as GPTQ, AWQ and bitsandbytes save it: on torch and on C++, as the same model in full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import EACH, VARIANTS, make_family
from passes import Chunk, Passes
from quantized_models import KINDS, save_quantized

from inference.decoders.native.bank import NativeBank
from inference.decoders.native.build import library_path, missing_feature
from inference.decoders.native.decoder import NativeDecoder
from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import read_architecture
from inference.model.linear import PlainLinear
from inference.model.weights import DecoderWeights, load_weights

IDS = list(range(3, 40))
WIDTH = 128
"""A multiple of the blocks of NF4: of others bitsandbytes 0.50 on a CPU expands other weights than it packed."""
DEQUANTIZING = ("amx", "neon_bf16", "neon", "portable")
"""Units that meet rows as they are."""


def quantized(home: Path, variant: str, kind: str) -> tuple[Path, Path, float]:
    """A directory of the family, the same model in full, and how far their weights are from each other."""
    config, make, _, error = KINDS[kind]
    full = make_family(home / "full", variant, intermediate_size=WIDTH)
    save_quantized(full, home / "tiny", config, make())
    return home / "tiny", full, error


def read(directory: Path, quantizes_rows: bool) -> tuple[Any, DecoderWeights]:
    architecture = read_architecture(directory / "config.json").within(128)
    weights = load_weights(directory, architecture, torch.float32, quantization="auto")
    for layer in weights.layers:
        for linear in (layer.qkv, layer.o, layer.gate_up, layer.down):
            if not isinstance(linear, PlainLinear):
                linear.quantizes_rows = quantizes_rows  # type: ignore[attr-defined]
    return architecture, weights


def logits(decoder: Any) -> torch.Tensor:
    passes = Passes(decoder, dtype=torch.float32)
    return passes.run(Chunk(passes.sequence(), IDS))[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gptq", "awq", "nested nf4", "llm.int8"])
@pytest.mark.parametrize("variant", EACH)
def test_logits_of_a_quantised_family_are_those_of_the_same_model_in_full(
    tmp_path: Path, variant: str, kind: str
) -> None:
    directory, full, error = quantized(tmp_path, variant, kind)
    found, wanted = (logits(TorchDecoder(*read(home, False), LoraBank())) for home in (directory, full))
    assert (found - wanted).norm() < 8 * error * wanted.norm()


@pytest.mark.slow
@pytest.mark.skipif(missing_feature() is not None, reason=f"not here: {missing_feature()}")
@pytest.mark.parametrize("kind", ["gptq", "llm.int8"])
@pytest.mark.parametrize("variant", EACH)
def test_the_native_decoder_multiplies_the_groups_of_every_family_as_torch_does(
    tmp_path: Path, variant: str, kind: str
) -> None:
    directory, _, _ = quantized(tmp_path, variant, kind)
    native = NativeDecoder(*read(directory, True), NativeBank(2), library_path(), 16, 1)
    wanted = logits(TorchDecoder(*read(directory, native.unit not in DEQUANTIZING), LoraBank()))
    assert (logits(native) - wanted).norm() < 0.01 * wanted.norm()


def test_each_family_is_quantised_here() -> None:
    assert {VARIANTS[variant][0] for variant in EACH} == {kind for kind, _ in VARIANTS.values()}
