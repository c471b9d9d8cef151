"""Checkpoints that are quantised already: their groups as we keep them, and those that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_model
from passes import Chunk, Passes
from quantized_models import AWQ, EIGHT, GPTQ, KINDS, NF4, Quantize, eight_bits, four_bits, gptq, save_quantized
from safetensors.torch import load_file, save_file

from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import read_architecture
from inference.model.checkpoint import WeightsError
from inference.model.checkpoints import open_checkpoint
from inference.model.linear import Int4Linear, PlainLinear
from inference.model.quantization import settle_quantization
from inference.model.quantized.bitsandbytes import NF4_VALUES, FourBits
from inference.model.weights import load_weights

SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}


def save(home: Path, config: dict[str, Any], quantize: Quantize, left: str = "(?!)") -> tuple[Path, Path]:
    """A tiny llama that is quantised, and the same in full."""
    model = make_model(home / "full", **SIZES)
    save_quantized(model, home / "tiny", config, quantize, left)
    return home / "tiny", model


def logits(directory: Path, quantization: str) -> torch.Tensor:
    architecture = read_architecture(directory / "config.json")
    weights = load_weights(directory, architecture, torch.float32, quantization=quantization)
    for layer in weights.layers:
        for linear in (layer.qkv, layer.o, layer.gate_up, layer.down):
            if not isinstance(linear, PlainLinear):
                linear.quantizes_rows = False  # type: ignore[attr-defined]
    passes = Passes(TorchDecoder(architecture, weights, LoraBank()))
    return passes.run(Chunk(passes.sequence(), [5, 6, 7, 90]))[0]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_the_file_in_our_groups_or_in_full(tmp_path: Path, kind: str) -> None:
    config, make, form, error = KINDS[kind]
    directory, full = save(tmp_path, config, make())
    architecture = read_architecture(directory / "config.json")
    checkpoint, whole = open_checkpoint(directory, architecture), open_checkpoint(full, architecture)
    assert checkpoint.is_quantized
    for target in architecture.targets:
        name, shape = f"{architecture.module_name(target, 1)}.weight", architecture.target_shape(target)[::-1]
        weight, kept = whole.read(name, shape), checkpoint.kept(name, shape)
        assert isinstance(kept, form)
        assert not isinstance(kept, PlainLinear)
        assert (kept.dequantized(torch.float32) - weight).norm() < error * weight.norm()
        assert (checkpoint.read(name, shape) - weight).norm() < min(error, 6e-4) * weight.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_same_model_in_full(tmp_path: Path, kind: str) -> None:
    config, make, _, error = KINDS[kind]
    directory, full = save(tmp_path, config, make())
    wanted = logits(full, "none")
    for quantization in ("auto", "none"):
        assert (logits(directory, quantization) - wanted).norm() < 5 * error * wanted.norm()


def test_linears_that_were_left_in_full_stay_so(tmp_path: Path) -> None:
    directory, full = save(tmp_path, GPTQ, gptq(32), left=r"layers\.0\.|v_proj")
    architecture = read_architecture(directory / "config.json")
    first, second = load_weights(directory, architecture, torch.float32, quantization="auto").layers
    assert isinstance(first.down, PlainLinear)
    assert isinstance(second.qkv, PlainLinear)  # one linear, in the finest form of its parts
    assert isinstance(second.down, Int4Linear)
    wanted = logits(full, "none")
    assert (logits(directory, "auto") - wanted).norm() < 2e-3 * wanted.norm()


def test_an_older_gptq_says_so_in_a_file_of_its_own(tmp_path: Path) -> None:
    directory, full = save(tmp_path, GPTQ, gptq(32))
    config = json.loads((directory / "config.json").read_text())
    told = config.pop("quantization_config")
    (directory / "config.json").write_text(json.dumps(config))
    del told["quant_method"]
    (directory / "quantize_config.json").write_text(json.dumps(told))
    wanted = logits(full, "none")
    assert (logits(directory, "auto") - wanted).norm() < 2e-3 * wanted.norm()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"quant_method": "hqq"}, "is quantised by 'hqq': not read here; take the model in full"),
        ({"quant_method": "fp8"}, "or a GGUF file"),
        ({}, "a method without a name"),
        (GPTQ | {"bits": 3}, "is gptq of 3 bits: read are 4"),
        (GPTQ | {"group_size": 48}, "has groups of 48 inputs: read are multiples of 32"),
        (GPTQ | {"checkpoint_format": "marlin"}, "in the form 'marlin': read are gptq and gptq_v2"),
        (AWQ | {"version": "gemv"}, "is AWQ of version 'gemv': read is gemm"),
        (GPTQ | {"desc_act": "no"}, "has desc_act 'no' in its quantization_config; it is true or false"),
        ({"quant_method": "bitsandbytes"}, "neither load_in_4bit nor load_in_8bit"),
        (NF4 | {"bnb_4bit_quant_type": "nf3"}, "has bnb_4bit_quant_type 'nf3'; it is nf4 or fp4"),
        ("nf4", "has the quantization_config 'nf4'; it is an object, or absent"),
    ],
)
def test_what_is_not_read_is_refused_with_what_would_be(tmp_path: Path, config: Any, sentence: str) -> None:
    directory = make_model(tmp_path / "odd")
    told = json.loads((directory / "config.json").read_text()) | {"quantization_config": config}
    (directory / "config.json").write_text(json.dumps(told))
    with pytest.raises(WeightsError) as caught:
        open_checkpoint(directory, read_architecture(directory / "config.json"))
    assert sentence in str(caught.value)


MODULE = "model.layers.1.mlp.up_proj."
Change = Callable[[torch.Tensor], torch.Tensor]
CHANGES: dict[str, Change] = {
    "one row, which would broadcast": lambda stored: stored[:1],
    "a row more": lambda stored: torch.cat((stored, stored[:1])),
    "flat": lambda stored: stored.flatten() if stored.dim() > 1 else stored[None],
    "half": lambda stored: stored.flatten()[: stored.numel() // 2],
    "empty": lambda stored: stored.flatten()[:0],
    "of a type that counts otherwise": lambda stored: stored.to(
        torch.int16 if stored.is_floating_point() else torch.float64
    ),
    "no numbers": lambda stored: stored * float("nan"),
}
HARMLESS = {("weight", "flat"), ("quant_state", "flat"), ("weight_format", "flat")}
"""The bytes of two numbers are the same in any shape, and so are those of a state."""


def changed(directory: Path, name: str, change: Change | None) -> None:
    """Change one stored tensor, or take it out."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    stored = tensors.pop(name)
    save_file(tensors | ({name: change(stored).contiguous()} if change else {}), path)


def read_up_proj(directory: Path) -> None:
    architecture = read_architecture(directory / "config.json")
    checkpoint, shape = open_checkpoint(directory, architecture), architecture.target_shape("up_proj")[::-1]
    for read in (checkpoint.kept, checkpoint.read):
        read(f"{MODULE}weight", shape)


@pytest.mark.parametrize("kind", ["gptq", "gptq of a whole row", "awq", "nf4", "nested nf4", "llm.int8"])
def test_no_part_of_a_linear_passes_in_another_shape_or_type(tmp_path: Path, kind: str) -> None:
    config, make, _, _ = KINDS[kind]
    directory, _ = save(tmp_path, config, make())
    read_up_proj(directory)
    whole = load_file(directory / "model.safetensors")
    for name in [name for name in whole if name.startswith(MODULE)]:
        part = name.removeprefix(MODULE).removeprefix("weight.").partition(".")[0]
        for what, change in CHANGES.items():
            if (part, what) in HARMLESS or whole[name].dim() == 0:
                continue
            if torch.equal(change(whole[name]), whole[name]):
                continue  # whole numbers have no NaN, and a row is one already
            changed(directory, name, change)
            with pytest.raises(WeightsError, match=r"model\.layers\.1\.mlp\.up_proj"):
                read_up_proj(directory)
            save_file(whole, directory / "model.safetensors")
        if part not in ("g_idx", "weight_format"):
            changed(directory, name, None)
            with pytest.raises(WeightsError):
                read_up_proj(directory)
            save_file(whole, directory / "model.safetensors")


STATE = f"{MODULE}weight.quant_state.bitsandbytes__nf4"


def with_state(**told: Any) -> Change:
    """The same state but for `told`."""

    def change(stored: torch.Tensor) -> torch.Tensor:
        state = json.loads(bytes(stored.tolist())) | told
        return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (with_state(shape=[128, 256]), r"is of shape \[128, 256\]; config.json asks for \[256, 128\]"),
        (with_state(shape=None), "is of shape null"),
        (with_state(quant_type="fp4"), "is of 'fp4', and is called nf4"),
        (with_state(blocksize=0), "its blocksize is 0; it is a power of 2 from 32 to 4096"),
        (with_state(blocksize=64.0), "its blocksize is 64.0"),
        (with_state(blocksize=128), r"absmax' of .* has shape \(512,\); by config.json it would have \(256,\)"),
        (with_state(nested_blocksize=-1), "its nested_blocksize is -1"),
        (with_state(nested_offset="0"), "its nested_offset is '0'; it is a number"),
        (with_state(nested_offset=float("inf")), "its nested_offset is inf"),
        (lambda stored: stored[:-3], "is not JSON"),
        (lambda stored: torch.tensor(list(b"[]"), dtype=torch.uint8), "holds no object but a list"),
    ],
)
def test_a_state_that_does_not_fit_its_weight_is_refused(tmp_path: Path, change: Change, sentence: str) -> None:
    directory, _ = save(tmp_path, NF4, four_bits("nf4", True))
    changed(directory, STATE, change)
    with pytest.raises(WeightsError, match=sentence):
        read_up_proj(directory)


def test_bytes_of_two_numbers_may_be_stored_as_any_type(tmp_path: Path) -> None:
    directory, full = save(tmp_path, NF4, four_bits("nf4", False))
    changed(directory, f"{MODULE}weight", lambda stored: stored.flatten().view(torch.bfloat16)[:, None])
    read_up_proj(directory)
    wanted = logits(full, "none")
    assert (logits(directory, "none") - wanted).norm() < 5e-3 * wanted.norm()


@pytest.mark.parametrize(
    ("desc_act", "change", "sentence"),
    [
        (False, lambda order: order.flip(0), "has inputs out of order, and config.json says desc_act false"),
        (True, lambda order: order + 1, "names groups from 1 to 4; there are 4, from 0"),
        (None, lambda order: order - 1, "names groups from -1 to 2; there are 4, from 0"),
        (True, lambda order: order * 0, "has groups of several sizes; each is of 32 inputs"),
        (True, None, r"says desc_act and has no tensor '.*g_idx'"),
    ],
)
def test_an_order_of_inputs_that_cannot_be_is_refused(
    tmp_path: Path, desc_act: bool | None, change: Change | None, sentence: str
) -> None:
    directory, _ = save(tmp_path, GPTQ | {"desc_act": desc_act}, gptq(32))
    changed(directory, f"{MODULE}g_idx", change)
    with pytest.raises(WeightsError, match=sentence):
        read_up_proj(directory)


def test_packed_linears_under_another_method_are_refused(tmp_path: Path) -> None:
    directory, _ = save(tmp_path, NF4, gptq(32))
    with pytest.raises(WeightsError, match=r"is packed as GPTQ and AWQ do it, and config\.json says bitsandbytes"):
        read_up_proj(directory)


def test_whole_numbers_without_a_scale_are_no_weights(tmp_path: Path) -> None:
    directory, _ = save(tmp_path, EIGHT, eight_bits)
    changed(directory, f"{MODULE}SCB", None)
    with pytest.raises(WeightsError, match=r"up_proj\.weight' of .* is of type int8; read here are bfloat16 or"):
        read_up_proj(directory)


def test_scales_beyond_float16_are_refused(tmp_path: Path) -> None:
    directory, _ = save(tmp_path, GPTQ, gptq(32))
    changed(directory, f"{MODULE}scales", lambda scales: scales.float() * 1e9)
    with pytest.raises(WeightsError, match="has scales that are no numbers in float16"):
        read_up_proj(directory)


@pytest.mark.parametrize("config", [GPTQ, AWQ, NF4, EIGHT])
def test_linears_that_are_all_in_full_are_served_so_whatever_config_says_of_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, config: dict[str, Any]
) -> None:
    directory = make_model(tmp_path)
    told = json.loads((directory / "config.json").read_text()) | {"quantization_config": config}
    (directory / "config.json").write_text(json.dumps(told))
    architecture = read_architecture(directory / "config.json")
    assert settle_quantization("auto", directory, architecture, torch.device("cpu")) == "none"
    assert f"names {config['quant_method']}, and all of its linears are in full: served in full" in caplog.text


def test_nf4_whose_inputs_make_no_groups_is_told_so_and_read_in_full() -> None:
    packed = torch.arange(16 * 40 // 2).to(torch.uint8)
    found = FourBits((16, 40), packed, torch.tensor(NF4_VALUES), torch.ones(10), block=64)
    with pytest.raises(ValueError, match="groups of 32 inputs, and this linear has 40"):
        found.linear()
    assert torch.cat(list(found.dequantized())).shape == (16, 40)
