"""Which bases a site serves: their names, the default one, and settings that one has of its own."""

from __future__ import annotations

import pytest

from inference.bases import BaseError, base_models, own_value
from inference.config import ConfigError, read_config

TWO = {"BASE_MODELS": "mistralai/Mistral-7B-v0.1, /models/tiny"}


def test_one_base_is_the_one_that_base_model_names() -> None:
    assert base_models({}) == ("SmolLM2-135M-Instruct",)
    assert base_models({"BASE_MODEL": "owner/some"}) == ("owner/some",)


def test_of_several_the_first_is_the_default_unless_base_model_names_another() -> None:
    assert base_models(TWO) == ("mistralai/Mistral-7B-v0.1", "/models/tiny")
    assert base_models({**TWO, "BASE_MODEL": "Tiny"}) == ("/models/tiny", "mistralai/Mistral-7B-v0.1")


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"BASE_MODELS": "a,b", "BASE_MODEL": "c"}, "BASE_MODEL=c is none of BASE_MODELS=a,b"),
        ({"BASE_MODELS": "one/Tiny,two/tiny.gguf"}, "BASE_MODELS names two models called tiny"),
        ({"BASE_MODELS": "a,b c"}, "BASE_MODELS=b c must end in a name of letters"),
    ],
)
def test_bases_that_could_not_be_told_apart_are_refused(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(BaseError) as caught:
        base_models(environ)
    assert sentence in str(caught.value)
    with pytest.raises(ConfigError):
        read_config(environ)


@pytest.mark.parametrize(
    ("text", "of_mistral", "of_tiny"),
    [
        ("4", "4", "4"),
        ("4,tiny=1", "4", "1"),
        ("TINY=1", "", "1"),
        ("tiny=1, mistralai/Mistral-7B-v0.1=2", "2", "1"),
        ("", "", ""),
    ],
)
def test_a_setting_may_differ_between_bases(text: str, of_mistral: str, of_tiny: str) -> None:
    models = base_models(TWO)
    assert own_value("THREADS", text, "mistral-7b-v0.1", models) == of_mistral
    assert own_value("THREADS", text, "tiny", models) == of_tiny


def test_a_worker_reads_what_holds_for_its_own_base() -> None:
    environ = {**TWO, "QUANTIZATION": "int8,Mistral-7B-v0.1=int4", "THREADS": "tiny=2", "MEMORY_SHARE": "tiny=0.25"}
    mistral, tiny = read_config(environ), read_config({**environ, "BASE_MODEL": "/models/tiny"})
    assert (mistral.base_key, mistral.quantization, mistral.threads) == ("mistral-7b-v0.1", "int4", 0)
    assert (tiny.base_key, tiny.quantization, tiny.threads) == ("tiny", "int8", 2)
    assert (mistral.memory_share, tiny.memory_share) == (0.5, 0.25), "an equal share, where none is stated"
    assert read_config({}).memory_share == 1


def test_a_training_may_have_a_base_that_the_site_does_not_serve() -> None:
    config = read_config({**TWO, "THREADS": "1,tiny=2"}, base="owner/other")
    assert (config.base_model, config.threads) == ("owner/other", 1)


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"THREADS": "small=2"}, "THREADS=small=2 is for a base that is not served; there are Mistral-7B-v0.1, tiny"),
        ({"THREADS": "1,2"}, "THREADS=1,2 must be a whole number"),
        ({"DEVICE": "cpu,Mistral-7B-v0.1=tpu"}, "DEVICE=tpu is not known"),
        ({"MEMORY_SHARE": "0"}, "MEMORY_SHARE=0 must be a share, greater than 0 and at most 1"),
        ({"MEMORY_SHARE": "1.5"}, "MEMORY_SHARE=1.5 must be a share"),
    ],
)
def test_a_bad_value_of_one_base_is_refused(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config({**TWO, **environ})
    assert sentence in str(caught.value)
