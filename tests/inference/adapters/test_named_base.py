"""The name of a base in a config: the served model under any owner's name, nobody's, or another model."""

from __future__ import annotations

import pytest

from inference.adapters.named_base import doubt_of, judge_base, named_base, remark_of

SERVED = "SmolLM2-135M-Instruct"
SAME = (
    SERVED,
    f"HuggingFaceTB/{SERVED}",
    "somebody/smollm2-135m-instruct",
    "unsloth/SmolLM2-135M-Instruct-bnb-4bit",
    "unsloth/smollm2-135m-instruct-unsloth-bnb-4bit",
    "me/SmolLM2-135M-Instruct-GGUF",
    "SmolLM2-135M-Instruct.gguf",
    "/models/SmolLM2-135M-Instruct-Q4_K_M.gguf",
    "x/SmolLM2-135M-Instruct-GPTQ-Int4",
    "x/SmolLM2-135M-Instruct-quantized.w4a16",
    "mlx-community/SmolLM2-135M-Instruct-4bit",
    r"C:\models\SmolLM2-135M-Instruct",
    "/root/.cache/huggingface/hub/models--HuggingFaceTB--SmolLM2-135M-Instruct/snapshots/1f",
)
NOBODYS = ("", "  ", "/home/me/final", "./base", "~/models/base", "outputs/checkpoint-500", "checkpoint-500", "model")
OTHER = (
    "HuggingFaceTB/SmolLM2-135M",
    "SmolLM2-135M.gguf",
    "unsloth/SmolLM2-360M-Instruct-bnb-4bit",
    "models/SmolLM2-135M",
    "/root/.cache/huggingface/hub/models--HuggingFaceTB--SmolLM2-135M/snapshots/1f",
)


@pytest.mark.parametrize("named", SAME)
def test_the_served_model_is_known_by_every_name_of_it(named: str) -> None:
    assert judge_base(named, SERVED) == "same"
    assert doubt_of(named, SERVED) == remark_of(named, SERVED) == ""


@pytest.mark.parametrize("named", NOBODYS)
def test_a_path_or_no_name_is_worth_a_mild_word_only(named: str) -> None:
    assert judge_base(named, SERVED) == "nobodys"
    assert doubt_of(named, SERVED) == ""
    assert "shapes alone" in remark_of(named, SERVED)


@pytest.mark.parametrize("named", OTHER)
def test_another_model_is_doubted_by_its_name(named: str) -> None:
    assert judge_base(named, SERVED) == "other"
    assert f"names the base {named} " in doubt_of(named, SERVED)
    assert remark_of(named, SERVED) == ""


def test_a_base_that_is_served_from_a_quantised_copy_is_the_same_model() -> None:
    assert judge_base("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct-Q8_0") == "same"


def test_what_is_no_text_names_nothing() -> None:
    assert [named_base({"base_model_name_or_path": value}) for value in (None, 5, [], " a/b ")] == ["", "", "", "a/b"]
    assert named_base({}) == ""
