"""Every family in fewer bits, as GPTQ, AWQ and bitsandbytes save it: as the same model in full."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import EACH, VARIANTS, make_family
from passes import Chunk, Passes
from quantized_models import KINDS, save_quantized

from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import read_architecture
from inference.model.linear import PlainLinear
from inference.model.weights import load_weights

IDS = list(range(3, 40))
WIDTH = 128
"""A multiple of the blocks of NF4: of others bitsandbytes 0.50 on a CPU expands other weights than it packed."""


def quantized(home: Path, variant: str, kind: str) -> tuple[Path, Path, float]:
    """A directory of the family, the same model in full, and how far their weights are from each other."""
    config, make, _, error = KINDS[kind]
    full = make_family(home / "full", variant, intermediate_size=WIDTH)
    save_quantized(full, home / "tiny", config, make())
    return home / "tiny", full, error


def logits(directory: Path) -> torch.Tensor:
    """As torch has them, rows not rounded: what is compared are weights."""
    architecture = read_architecture(directory / "config.json").within(128)
    weights = load_weights(directory, architecture, torch.float32, quantization="auto")
    for layer in weights.layers:
        for linear in (layer.qkv, layer.o, layer.gate_up, layer.down):
            if not isinstance(linear, PlainLinear):
                linear.quantizes_rows = False  # type: ignore[attr-defined]
    passes = Passes(TorchDecoder(architecture, weights, LoraBank()))
    return passes.run(Chunk(passes.sequence(), IDS))[0]


@pytest.mark.cell("{kind}", "torch")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gptq", "awq", "nested nf4", "llm.int8"])
@pytest.mark.parametrize("variant", EACH)
def test_logits_of_a_quantised_family_are_those_of_the_same_model_in_full(
    tmp_path: Path, variant: str, kind: str
) -> None:
    directory, full, error = quantized(tmp_path, variant, kind)
    found, wanted = logits(directory), logits(full)
    assert (found - wanted).norm() < 8 * error * wanted.norm()


def test_each_family_is_quantised_here() -> None:
    assert {VARIANTS[variant][0] for variant in EACH} == {kind for kind, _ in VARIANTS.values()}
