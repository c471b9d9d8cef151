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
    for name in ("Tiny", "/models/tiny", "/models/tiny/"):
        assert base_models({**TWO, "BASE_MODEL": name}) == ("/models/tiny", "mistralai/Mistral-7B-v0.1")
    assert base_models({"BASE_MODELS": ",a,,models/base,", "BASE_MODEL": "base"}) == ("models/base", "a")
    assert base_models({"BASE_MODELS": "a", "BASE_MODEL": "A"}) == ("a",)


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"BASE_MODELS": "a,b", "BASE_MODEL": "c"}, "BASE_MODEL=c is none of BASE_MODELS=a,b"),
        ({"BASE_MODELS": "one/Tiny,two/tiny.gguf"}, "BASE_MODELS names two models called tiny"),
        ({"BASE_MODELS": "a,b c"}, "BASE_MODELS=b c must end in a name of letters"),
        ({"BASE_MODELS": "a,.."}, "BASE_MODELS=.. must end in a name of letters"),
        ({"BASE_MODELS": "a,models/."}, "BASE_MODELS=models/. must end in a name of letters"),
        ({"BASE_MODELS": "-,a"}, "BASE_MODELS=- must end in a name of letters"),
        ({"BASE_MODELS": "/,a"}, "BASE_MODELS=/ must end in a name of letters"),
        ({"BASE_MODEL": ".partial"}, "first no dot or dash, such as SmolLM2-135M-Instruct"),
        ({"BASE_MODELS": f"a,{'n' * 201}"}, "200 of them and first"),
        ({"BASE_MODELS": "a,a"}, "BASE_MODELS names two models called a"),
        ({"BASE_MODELS": " , "}, "BASE_MODELS holds commas alone; name one model or several"),
        ({"BASE_MODELS": "x/a,b", "BASE_MODEL": "y/a"}, "BASE_MODEL=y/a is none of BASE_MODELS=x/a,b;"),
        ({"BASE_MODELS": "x/a,b", "BASE_MODEL": "y/a"}, "as it is written there or by its name alone: a or b"),
        ({"BASE_MODELS": "a,/models/Base"}, "base is what programs call the default one, a; rename its folder"),
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
        ("tiny = 1 , 4", "4", "1"),
        ("mistralai/Mistral-7B-v0.1=2,,", "2", ""),
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
    assert (mistral.memory_share, tiny.memory_share) == (0.75, 0.25), "the rest, where none is stated"


def test_a_training_may_have_a_base_that_the_site_does_not_serve() -> None:
    config = read_config({**TWO, "THREADS": "1,tiny=2"}, base="owner/other")
    assert (config.base_model, config.threads) == ("owner/other", 1)


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"THREADS": "small=2"}, "THREADS=small=2 is for a base that is not served; there are Mistral-7B-v0.1, tiny"),
        (
            {"THREADS": "other/Mistral-7B-v0.1=2"},
            "=2 is for a base that is not served; there are Mistral-7B-v0.1, tiny",
        ),
        ({"THREADS": "=2"}, "THREADS==2 is for a base that is not served"),
        ({"THREADS": "4,tiny="}, "THREADS=tiny= has no value for tiny; write one behind the =, or leave tiny out"),
        ({"THREADS": "tiny=4,tiny=5"}, "THREADS=tiny=4,tiny=5 has two values for tiny, 4 and 5; keep one of them"),
        ({"THREADS": "tiny=4,/models/tiny=4"}, "has two values for /models/tiny, 4 and 4"),
        ({"THREADS": "1,2"}, "THREADS=1,2 must be a whole number"),
        ({"DEVICE": "cpu,Mistral-7B-v0.1=tpu"}, "DEVICE=tpu is not known"),
        ({"MEMORY_SHARE": "0"}, "MEMORY_SHARE=0 must be a share, greater than 0 and at most 1"),
        ({"MEMORY_SHARE": "1.5"}, "MEMORY_SHARE=1.5 must be a share"),
        ({"MEMORY_SHARE": "tiny=2"}, "MEMORY_SHARE=2 must be a share"),
    ],
)
def test_a_bad_value_of_one_base_is_refused(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config({**TWO, **environ})
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "of_mistral", "of_tiny"),
    [
        ({}, 0.5, 0.5),
        ({"MEMORY_SHARE": "0.4"}, 0.4, 0.4),
        ({"MEMORY_SHARE": "0.2, Mistral-7B-v0.1=0.8"}, 0.8, 0.2),
        ({"MEMORY_SHARE": "1", "WORKERS": "1,tiny=0"}, 1, 1),
        ({"WORKERS": "0,tiny=1"}, 1, 1),
        ({"MEMORY_SHARE": "1", "WORKERS": "tiny=00"}, 1, 1),
    ],
)
def test_bases_share_a_gpu_in_equal_parts_or_as_it_is_stated(
    environ: dict[str, str], of_mistral: float, of_tiny: float
) -> None:
    mistral, tiny = (read_config({**TWO, **environ}, base) for base in ("Mistral-7B-v0.1", "tiny"))
    assert (mistral.memory_share, tiny.memory_share) == (of_mistral, of_tiny)
    assert read_config({}).memory_share == 1


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        (
            {"MEMORY_SHARE": "0.6"},
            "MEMORY_SHARE=0.6 is 0.6 for Mistral-7B-v0.1, 0.6 for tiny; together they may take 1",
        ),
        ({"MEMORY_SHARE": "tiny=1"}, "is 1 for tiny, which leaves nothing for Mistral-7B-v0.1; together"),
        ({"MEMORY_SHARE": "1"}, "where one runs on another machine say so, as WORKERS=tiny=0 does"),
    ],
)
def test_bases_that_would_take_more_than_a_gpu_has_are_refused(environ: dict[str, str], sentence: str) -> None:
    for base in ("Mistral-7B-v0.1", "tiny"):
        with pytest.raises(ConfigError) as caught:
            read_config({**TWO, **environ}, base)
        assert sentence in str(caught.value)


def test_a_training_whose_base_is_served_under_another_spelling_has_its_settings() -> None:
    config = read_config({**TWO, "THREADS": "1,/models/tiny=2", "MEMORY_SHARE": "0.5"}, base="TINY")
    assert (config.base_model, config.threads) == ("/models/tiny", 2)
    namesake = read_config({**TWO, "MEMORY_SHARE": "0.5"}, base="/elsewhere/tiny")
    assert namesake.base_model == "/elsewhere/tiny"
