"""Which decoder is made for a processor, a type and a setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from inference.config import DECODER_UNITS, ConfigError, EngineConfig, read_config
from inference.decoders.choice import make_decoder
from inference.decoders.contract import Decoder
from inference.decoders.native.build import library_path, missing_feature
from inference.decoders.native.decoder import NativeDecoder
from inference.decoders.native.library import open_library, units_of
from inference.decoders.torch.decoder import TorchDecoder
from inference.model.architecture import read_architecture
from inference.model.weights import DecoderWeights, load_weights
from tests.inference.checkpoints import make_model

WIDE = {"hidden_size": 192, "intermediate_size": 320, "num_attention_heads": 6, "num_key_value_heads": 2}


def config_of(**variables: str) -> EngineConfig:
    return read_config(variables)


def made(home: Path, config: EngineConfig, dtype: torch.dtype = torch.bfloat16, **shape: Any) -> Decoder:
    directory = make_model(home / "tiny", **{**WIDE, "head_dim": 32, **shape})
    architecture = read_architecture(directory / "config.json")
    return make_decoder(config, architecture, load_weights(directory, architecture, dtype))


def test_torch_computes_where_it_is_asked_to(tmp_path: Path) -> None:
    assert isinstance(made(tmp_path, config_of(DECODER="torch")), TorchDecoder)


def test_torch_computes_a_shape_that_the_native_decoder_does_not(tmp_path: Path) -> None:
    assert isinstance(made(tmp_path, config_of(), head_dim=24, num_attention_heads=8), TorchDecoder)
    with pytest.raises(ConfigError, match="DECODER=native cannot be had: head_dim is 24"):
        made(tmp_path, config_of(DECODER="native"), head_dim=24, num_attention_heads=8)


def test_a_gpu_refuses_by_name_what_its_kernels_do_not_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = pytest.importorskip("inference.decoders.gpu.decoder", reason="the kernels need the package triton")
    monkeypatch.setattr(DecoderWeights, "device", torch.device("cuda"))
    monkeypatch.setattr(gpu, "make_triton_decoder", lambda *given: "Triton's")
    assert made(tmp_path / "before", config_of(), mlp_bias=True) == "Triton's"
    monkeypatch.setattr(gpu, "COMPUTED", gpu.COMPUTED - {"biased"})
    sentence = (
        "tiny cannot be served on a GPU: Triton's decoder does not compute linears with a bias; choose DEVICE=cpu"
    )
    with pytest.raises(ConfigError, match=sentence):
        made(tmp_path / "after", config_of(), mlp_bias=True)


native = pytest.mark.skipif(missing_feature() is not None, reason=f"not here: {missing_feature()}")


@native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_native_decoder_computes_either_type(tmp_path: Path, dtype: torch.dtype) -> None:
    assert isinstance(made(tmp_path, config_of(), dtype), NativeDecoder)


@native
def test_it_computes_on_the_unit_that_is_named(tmp_path: Path) -> None:
    decoder = made(tmp_path, config_of(DECODER_UNIT="portable"))
    assert (type(decoder), decoder.unit) == (NativeDecoder, "portable")


@native
def test_a_unit_that_is_not_there_is_refused_and_not_replaced_by_torch(tmp_path: Path) -> None:
    here = units_of(open_library(library_path()))
    lacking = next(unit for unit in DECODER_UNITS if unit not in here)
    with pytest.raises(ConfigError, match=rf"DECODER_UNIT={lacking} cannot be had: .*it has .*portable; choose auto"):
        made(tmp_path, config_of(DECODER_UNIT=lacking))


def test_a_unit_that_nobody_knows_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"DECODER_UNIT=sse9 is not known; choose auto, amx, .*or portable"):
        config_of(DECODER_UNIT="sse9")
