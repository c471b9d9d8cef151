"""A base in a GGUF file: its tensors in groups and in full, its logits, and what is wrong with the broken ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import load_reference
from gguf_files import KINDS, SIZES, write_gguf, write_in_full
from passes import Chunk, Passes

from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import read_architecture
from inference.model.checkpoint import WeightsError
from inference.model.checkpoints import open_checkpoint
from inference.model.gguf.checkpoint import GgufCheckpoint
from inference.model.gguf.directory import write_directory
from inference.model.gguf.file import GgufFile
from inference.model.gguf.header import GgufError
from inference.model.linear import Int4Linear, Int5Linear, Int8Linear, KeptLinear, PlainLinear
from inference.model.weights import load_weights

FORMS = {
    **{"Q4_0": Int4Linear, "Q4_1": Int4Linear, "Q4_K": Int4Linear},
    **{"Q5_0": Int5Linear, "Q5_1": Int5Linear, "Q5_K": Int5Linear},
    **{"Q8_0": Int8Linear, "Q6_K": Int8Linear},
    **{"F32": PlainLinear, "F16": PlainLinear, "BF16": PlainLinear},
}
ERRORS = {"Q4_K": 4e-4, "Q5_K": 4e-4, "Q6_K": 6e-3}
"""How far weights are from the file's, as a share of their size, where they are not the file's own."""
MIX = {"attn_v": "Q6_K", "ffn_down": "Q6_K", "output": "Q6_K", "token_embd": "Q4_K"}
IDS = [5, 6, 7, 300, 11]
Made = Callable[..., tuple[Path, Path]]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Writes a file and gives its model directory, and one of the same model in full."""

    def make(*args: Any, **options: Any) -> tuple[Path, Path]:
        full = write_gguf(tmp_path / "tiny.gguf", *args, **options)
        directory = tmp_path / "tiny"
        directory.mkdir()
        write_directory(tmp_path / "tiny.gguf", directory)
        config = (directory / "config.json").read_text()
        return directory, write_in_full(tmp_path / "full", config, full)

    return make


def logits(directory: Path, quantization: str = "auto", ids: list[int] = IDS) -> torch.Tensor:
    """As the torch decoder has them, rows not rounded: what is compared are weights."""
    architecture = read_architecture(directory / "config.json")
    weights = load_weights(directory, architecture, torch.float32, quantization=quantization)
    for layer in weights.layers:
        for linear in (layer.qkv, layer.o, layer.gate_up, layer.down):
            _meet_rows_as_they_are(linear)
    _meet_rows_as_they_are(weights.head)
    passes = Passes(TorchDecoder(architecture, weights, LoraBank()))
    return passes.run(Chunk(passes.sequence(), ids))[0]


def _meet_rows_as_they_are(linear: Any) -> None:
    if not isinstance(linear, PlainLinear):
        linear.quantizes_rows = False


def truth(directory: Path, ids: list[int] = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return load_reference(directory)(torch.tensor([ids])).logits[0]


def weight_of(linear: KeptLinear) -> torch.Tensor:
    return linear.weight if isinstance(linear, PlainLinear) else linear.dequantized(torch.float32)


@pytest.mark.parametrize("kind", FORMS)
def test_each_type_is_kept_in_the_decoders_own_groups(made: Made, kind: str) -> None:
    directory, full = made(kind)
    architecture = read_architecture(directory / "config.json")
    checkpoint, whole = GgufCheckpoint(directory, architecture), open_checkpoint(full, architecture)
    for name, shape in checkpoint.shapes().items():
        weight = whole.read(name, shape)
        assert torch.equal(checkpoint.read(name, shape), weight)
        kept = checkpoint.kept(name, shape)
        assert isinstance(kept, FORMS[kind]) if FORMS[kind] is not PlainLinear and len(shape) == 2 else kept is None
        if kept is not None:
            assert (weight_of(kept) - weight).norm() <= ERRORS.get(kind, 0) * weight.norm()


@pytest.mark.parametrize("kind", FORMS)
def test_logits_are_those_of_the_same_model_in_full(made: Made, kind: str) -> None:
    directory, full = made(kind)
    wanted, found = truth(full), logits(directory)
    assert (found - wanted).norm() <= (1e-5 + 5 * ERRORS.get(kind, 0)) * wanted.norm()
    torch.testing.assert_close(logits(directory, "none"), wanted, atol=1e-4, rtol=1e-4)


def test_a_mixture_of_types_is_served_each_in_its_form(made: Made) -> None:
    directory, full = made("Q4_K", MIX)
    weights = load_weights(
        directory, architecture := read_architecture(directory / "config.json"), torch.float32, quantization="auto"
    )
    layer = weights.layers[0]
    forms = [type(linear) for linear in (layer.qkv, layer.o, layer.gate_up, layer.down, weights.head)]
    assert forms == [Int8Linear, Int4Linear, Int4Linear, Int8Linear, Int8Linear]
    assert architecture.num_layers == len(weights.layers)
    wanted = truth(full)
    assert (logits(directory) - wanted).norm() < 0.02 * wanted.norm()


def test_a_table_is_read_row_by_row_as_the_file_has_it(made: Made) -> None:
    directory, full = made("Q6_K", leave_out=("output.weight",))
    weights = load_weights(directory, read_architecture(directory / "config.json"), torch.bfloat16, quantization="auto")
    table = open_checkpoint(full, read_architecture(full / "config.json")).read(
        "model.embed_tokens.weight", (SIZES["vocab"], SIZES["hidden"]), torch.bfloat16
    )
    assert not isinstance(weights.embedding, torch.Tensor)
    ids = torch.tensor([3, 3, 319, 0])
    assert torch.equal(weights.embedding[ids], table[ids])
    assert weights.embedding[ids[:0]].shape == (0, SIZES["hidden"])
    assert (weight_of(weights.head) - table).norm() < 0.01 * table.float().norm()  # type: ignore[arg-type]


def test_the_factors_of_a_rotary_embedding_are_kept(made: Made) -> None:
    """As Llama 3's are written: config.json's numbers as a factor for each frequency."""
    dim, theta = SIZES["dim"], 10000.0
    frequencies = theta ** -(np.arange(0, dim, 2) / dim)
    smooth = np.clip((64 * frequencies / (2 * np.pi) - 1) / 3, 0, 1)
    factors = (1 / ((1 - smooth) / 8 + smooth)).astype(np.float32)
    directory, full = made("F32", extra={"rope_freqs.weight": factors})
    config = json.loads((full / "config.json").read_text())
    llama3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    config["rope_parameters"] = {"rope_type": "llama3", "rope_theta": theta} | llama3
    (full / "config.json").write_text(json.dumps(config))
    ids = list(range(3, 128))
    wanted = truth(full, ids)
    torch.testing.assert_close(logits(directory, ids=ids), wanted, atol=2e-3, rtol=1e-3)
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    (full / "config.json").write_text(json.dumps(config))
    assert (truth(full, ids) - wanted).abs().max() > 0.02


@pytest.mark.parametrize(
    ("fields", "rope"),
    [
        ({"llama.rope.scaling.type": "none"}, {"rope_type": "default"}),
        (
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
            {"rope_type": "linear", "factor": 4.0},
        ),
        ({"llama.rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 4.0,
                "llama.rope.scaling.original_context_length": 64,
            },
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        ),
    ],
    ids=["none", "linear", "older", "yarn"],
)
def test_a_scaling_that_fields_name_is_that_of_transformers(
    made: Made, fields: dict[str, Any], rope: dict[str, Any]
) -> None:
    directory, full = made("F32", fields=fields)
    config = json.loads((directory / "config.json").read_text())
    assert config["rope_parameters"] == {"rope_theta": 10000.0} | rope
    ids = list(range(3, 128))
    torch.testing.assert_close(logits(directory, ids=ids), truth(full, ids), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"leave_out": ("blk.1.ffn_up.weight",)}, "has no tensor 'blk.1.ffn_up.weight'; it holds no whole model"),
        ({"leave_out": ("token_embd.weight",)}, "has no tensor 'token_embd.weight'"),
        ({"extra": {"blk.0.attn_q.bias": np.zeros(256, np.float32)}}, "has no tensor 'blk.0.attn_k.bias'"),
        ({"extra": {"blk.0.attn_q.scale": np.ones(1, np.float32)}}, "'blk.0.attn_q.scale' of"),
        ({"fields": {"llama.expert_count": 8}}, "is a mixture of 8 experts; served are dense models only"),
        (
            {"fields": {"llama.rope.dimension_count": 32, "llama.attention.key_length": 64}},
            "partial_rotary_factor is 0.5, and a LlamaForCausalLM turns all of a head",
        ),
        ({"fields": {"llama.rope.scaling.type": "su"}}, "by 'su'; served are none, linear, yarn and rope_freqs.weight"),
        ({"extra": {"rope_freqs.weight": np.ones(31, np.float32)}}, "has shape (31,) where 32 factors would be"),
        (
            {"fields": {"split.count": 3}},
            "-00001-of-00003.gguf and so on; call them so, or join them with `llama-gguf-spl",
        ),
        ({"fields": {"split.count": "3"}}, "says split.count '3' and split.no 0; they are numbers"),
        ({"fields": {"llama.block_count": 2.0}}, "says that llama.block_count is 2.0; read there is a whole number"),
        (
            {"fields": {"llama.attention.head_count": "4"}},
            "says that llama.attention.head_count is '4'; read there is a",
        ),
        ({"fields": {"llama.attention.head_count": 0}}, "does not say attention.head_count of its model"),
        (
            {"fields": {"llama.rope.freq_base": float("nan")}},
            "says that llama.rope.freq_base is nan; read there is a num",
        ),
        ({"fields": {"llama.rope.freq_base": -1.0}}, "rope_theta is -1.0; it is a number above 0"),
        ({"fields": {"llama.attention.layer_norm_rms_epsilon": "x"}}, "epsilon is 'x'; read there is a number"),
        ({"fields": {"llama.rope.scaling.type": 2}}, "says that llama.rope.scaling.type is 2; read there is a text"),
        ({"fields": {"llama.feed_forward_length": [512, 256]}}, "is [512, 256]; read there is a whole number for all"),
        ({"fields": {"general.alignment": 24}}, "says general.alignment 24, which is no power of 2"),
        (
            {"fields": {"tokenizer.ggml.eos_token_id": 320}},
            "its eos_token_id is 320; the tokens are numbered from 0 to",
        ),
        (
            {"fields": {"tokenizer.ggml.bos_token_id": "1"}},
            "its bos_token_id is '1'; the tokens are numbered from 0 to 319",
        ),
        ({"fields": {"tokenizer.chat_template": 7}}, "its tokenizer.chat_template is 7; it is a text"),
    ],
)
def test_a_model_that_is_not_served_is_refused_with_its_reason(
    tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    write_gguf(tmp_path / "odd.gguf", "F16", **options)
    (tmp_path / "odd").mkdir()
    with pytest.raises(GgufError) as caught:
        write_directory(tmp_path / "odd.gguf", tmp_path / "odd")
    assert sentence in str(caught.value)
    assert str(tmp_path / "odd.gguf") in str(caught.value)


def test_a_tensor_of_another_shape_than_the_config_says_is_refused(made: Made) -> None:
    directory, _ = made("Q8_0")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"intermediate_size": 480}))
    with pytest.raises(WeightsError, match=r"'blk\.0\.ffn_gate\.weight' of .* has shape \(512, 256\); .* \(480, 256\)"):
        logits(directory)


def test_scales_that_are_no_numbers_are_refused(made: Made) -> None:
    directory, _ = made("Q8_0")
    path = directory / "model.gguf"
    tensor = GgufFile(path).tensors["blk.1.ffn_down.weight"]
    data = bytearray(path.read_bytes())
    data[tensor.start : tensor.start + 2] = b"\xff\xff"
    path.write_bytes(data)
    with pytest.raises(
        WeightsError, match=r"'blk\.1\.ffn_down\.weight' .* scales that are no numbers in float16; fetch"
    ):
        logits(directory)


@pytest.mark.parametrize("kind", ["Q2_K", "IQ4_NL"])
def test_an_unknown_type_is_named_beside_those_that_are_served(tmp_path: Path, kind: str) -> None:
    import gguf

    path, type_ = tmp_path / "odd.gguf", gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, "llama")
    _, size = gguf.GGML_QUANT_SIZES[type_]
    writer.add_tensor("token_embd.weight", np.zeros((4, size), np.uint8), raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(GgufError, match=f"'token_embd.weight' .* of type {kind}; served are F32, F16, .* Q6_K"):
        GgufFile(path)


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.001, 0.01, 0.02, 0.1, 0.5, 0.99, 0.99999])
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.gguf"
    write_gguf(path, "Q8_0")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(GgufError, match="fetch it again"):
        GgufFile(path)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_headers_are_refused_or_read(tmp_path: Path, seed: int) -> None:
    path, draw = tmp_path / "damaged.gguf", np.random.default_rng(seed)
    write_gguf(path, "Q8_0", layers=1)
    data = bytearray(path.read_bytes())
    for _ in range(4):
        data[int(draw.integers(0, 2000 if seed % 2 else 12000))] = int(draw.integers(0, 256))
    path.write_bytes(data)
    try:
        found = GgufFile(path)
    except GgufError:
        return
    assert found.tensors


def test_every_type_of_the_format_that_is_known_has_a_test() -> None:
    assert set(FORMS) == set(KINDS)
