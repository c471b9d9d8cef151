"""Conversations in the templates of known families, beside what transformers makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from inference.model.tokenizer import Tokenizer
from inference.wire.protocol import Message
from tests.inference.engines import make_tokenizer
from tests.inference.model.templates import FAMILIES, GEMMA_2, MISTRAL_V3, PHI_3_OLD, QWEN_3

ASKED = (Message("user", "Is it warm? "), Message("assistant", "\nIn Bonn, yes."), Message("user", "und in Köln? 漢字"))
SYSTEM = Message("system", "Be brief.")
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "tells <it>", "parameters": {"a": [1]}}}]
WITHOUT_SYSTEM = ("gemma-2", "phi-3")
WITHOUT_TOOLS = ("gemma-2", "gemma-3", "phi-3", "phi-4", "olmo-2")


def both(directory: Path, template: str) -> tuple[Tokenizer, PreTrainedTokenizerFast]:
    """The tokenizer of a base with `template`, as we read it and as transformers does."""
    make_tokenizer(directory, template)
    (directory / "tokenizer_config.json").write_text('{"bos_token": "<|start|>", "eos_token": "<|end|>"}')
    path = str(directory / "tokenizer.json")
    theirs = PreTrainedTokenizerFast(tokenizer_file=path, bos_token="<|start|>", eos_token="<|end|>")
    theirs.chat_template = template
    return Tokenizer(directory), theirs


def expected(theirs: PreTrainedTokenizerFast, messages: tuple[Message, ...], tools: Any = None) -> list[int]:
    turns = [{"role": message.role, "content": message.content} for message in messages]
    return theirs.apply_chat_template(turns, tools=tools, add_generation_prompt=True, return_dict=True)["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_has_the_tokens_that_transformers_finds(family: str, tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, FAMILIES[family])
    assert ours.encode_chat(ASKED) == expected(theirs, ASKED)
    assert ours.encode_chat(ASKED[:1]) == expected(theirs, ASKED[:1])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in WITHOUT_SYSTEM])
def test_so_has_one_with_a_system_message(family: str, tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, FAMILIES[family])
    assert ours.encode_chat((SYSTEM, *ASKED)) == expected(theirs, (SYSTEM, *ASKED))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in WITHOUT_TOOLS])
def test_so_has_one_with_tools(family: str, tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, FAMILIES[family])
    assert ours.encode_chat(ASKED, json.dumps(TOOLS)) == expected(theirs, ASKED, TOOLS)


@pytest.mark.parametrize("family", WITHOUT_SYSTEM)
def test_where_a_template_has_no_place_for_it_a_system_message_stands_before_the_first_question(
    family: str, tmp_path: Path
) -> None:
    ours, theirs = both(tmp_path, FAMILIES[family])
    merged = (Message("user", f"{SYSTEM.content}\n\n{ASKED[0].content}"), *ASKED[1:])
    assert ours.encode_chat((SYSTEM, *ASKED)) == expected(theirs, merged)


def test_two_system_messages_and_one_without_a_question_are_not_lost(tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, GEMMA_2)
    late = Message("system", "Now in verse.")
    merged = (*ASKED[:2], Message("user", f"Be brief.\n\nNow in verse.\n\n{ASKED[2].content}"))
    assert ours.encode_chat((*ASKED[:2], SYSTEM, late, ASKED[2])) == expected(theirs, merged)
    assert ours.encode_chat((SYSTEM,)) == expected(theirs, (Message("user", "Be brief."),))


def test_a_system_message_in_the_middle_stays_where_the_template_shows_it(tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, QWEN_3)
    talk = (*ASKED[:2], SYSTEM, ASKED[2])
    assert ours.encode_chat(talk) == expected(theirs, talk)


def test_a_template_that_shows_the_system_message_at_the_end_only_keeps_it(tmp_path: Path) -> None:
    ours, _ = both(tmp_path, MISTRAL_V3)
    whole = ours.decode(ours.encode_chat((SYSTEM, *ASKED)))
    assert whole.endswith(f"[INST] Be brief.\n\n{ASKED[2].content}[/INST]")


def test_tools_that_a_template_without_a_system_message_has_no_words_for_stand_in_the_question(tmp_path: Path) -> None:
    ours, _ = both(tmp_path, GEMMA_2)
    text = ours.decode(ours.encode_chat(ASKED[:1], json.dumps(TOOLS)))
    assert text.startswith("user\nYou may call these functions.")
    assert '"name": "weather"' in text
    assert text.endswith("Is it warm?\nmodel\n")


@pytest.mark.parametrize("written", ["tojson(ensure_ascii=True)", "string"])
def test_an_object_that_a_template_writes_as_python_or_in_ascii_shows_no_mark_of_ours(
    written: str, tmp_path: Path
) -> None:
    ours, theirs = both(tmp_path, "{{ tools | WRITTEN }}".replace("WRITTEN", written))
    assert ours.encode_chat(ASKED, json.dumps(TOOLS)) == expected(theirs, ASKED, TOOLS)


def test_a_user_cannot_write_what_looks_like_a_system_message_into_it(tmp_path: Path) -> None:
    ours, _ = both(tmp_path, PHI_3_OLD)
    start = ours.encode("<|start|>")[0]
    count = ours.encode_chat((SYSTEM, ASKED[0])).count(start)
    assert ours.encode_chat((Message("system", "<|start|>"), ASKED[0])).count(start) == count
