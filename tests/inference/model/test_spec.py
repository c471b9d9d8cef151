"""What decoders say of a family that they do not compute."""

from __future__ import annotations

from dataclasses import fields

import pytest

from inference.decoders.gpu import decoder as gpu
from inference.decoders.native import decoder as native
from inference.model.architecture import Architecture
from inference.model.spec import Activation, DecoderSpec, HeadNorm, Norm, NormPlace, Rope

OTHERWISE = DecoderSpec(
    norm=Norm.LAYER,
    norm_offset=1.0,
    norm_place=NormPlace.BOTH,
    head_norm=HeadNorm.WHOLE,
    biased=frozenset({"q_proj"}),
    activation=Activation.GELU,
    is_gated=False,
    is_parallel=True,
    rotary_part=0.5,
    is_interleaved=True,
    turning=(True, False),
    windowed=(True, False),
    local_rope=Rope(100.0),
    score_cap=50.0,
    logit_cap=30.0,
    embedding_multiplier=2.0,
    attention_scale=0.1,
    residual_multiplier=0.5,
    logit_multiplier=0.25,
)


def test_llama_asks_for_nothing_beyond_itself() -> None:
    assert DecoderSpec().beyond_llama() == ()


def test_every_field_that_differs_is_told_in_words_of_its_own_but_what_the_weights_carry() -> None:
    words = OTHERWISE.beyond_llama()
    assert len(words) == len(set(words)) == len(fields(DecoderSpec)) - 1
    assert not {field.name for field in fields(DecoderSpec)}.intersection(words)


def test_what_a_decoder_computes_is_not_told() -> None:
    assert DecoderSpec(is_parallel=True, logit_cap=30.0).beyond_llama({"logit_cap"}) == ("attention beside the MLP",)


@pytest.mark.parametrize("computed", [native.COMPUTED, gpu.COMPUTED], ids=["C++", "Triton"])
def test_each_decoder_names_all_fields_that_there_are(computed: frozenset[str]) -> None:
    assert OTHERWISE.beyond_llama(computed) == ()


def test_the_gpus_decoder_refuses_a_field_that_it_does_not_name(monkeypatch: pytest.MonkeyPatch) -> None:
    gateless = Architecture(8, 4, 4, 2, 1, 1, 4, 1e-5, 64, spec=DecoderSpec(is_gated=False))
    assert gpu.unsupported_on_gpu(gateless) is None
    monkeypatch.setattr(gpu, "COMPUTED", gpu.COMPUTED - {"is_gated"})
    assert gpu.unsupported_on_gpu(gateless) == "Triton's decoder does not compute an MLP without a gate"
