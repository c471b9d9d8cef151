"""Calls found in answers, whole and in pieces of any size; and what is no call stays text."""

from __future__ import annotations

import json

import pytest

from loraland.api.tools.auto import Auto
from loraland.api.tools.forced import OneFunction, ToldFunctions
from loraland.api.tools.pieces import Words, joined, read_whole

NAMES = ("weather", "add")
CALL = '{"name": "weather", "arguments": {"city": "Bonn"}}'
LLAMA = '{"name": "weather", "parameters": {"city": "Bonn"}}'
BONN = ("weather", {"city": "Bonn"})
ADD = ("add", {"a": 1})


def auto(text: str, at_most: int | None = None) -> tuple[str, list[tuple[str, object]]]:
    """The words and the calls of an answer, which are the same however it is cut."""
    whole = read_whole(Auto(NAMES, at_most), text)
    for size in (1, 2, 3, 7):
        parser = Auto(NAMES, at_most)
        pieces = [piece for at in range(0, len(text), size) for piece in parser.push(text[at : at + size])]
        assert joined([*pieces, *parser.end()]) == whole
    return whole.text, [(call.name, json.loads(call.arguments)) for call in whole.calls]


@pytest.mark.parametrize(
    "text",
    [
        f"<tool_call>\n{CALL}\n</tool_call>",
        f"\n\n<tool_call>{CALL}</tool_call>\n",
        f"<tool_call>{CALL}",
        f"[TOOL_CALLS][{CALL}]",
        f"[TOOL_CALLS] [{CALL}]",
        '[TOOL_CALLS]weather[ARGS]{"city": "Bonn"}',
        '[TOOL_CALLS]weather{"city": "Bonn"}',
        f"<|python_tag|>{LLAMA}",
        f"<|tool_call|>[{CALL}]",
        LLAMA,
        f" {CALL}",
        f"[{CALL}]",
        '{"type": "function", "function": {"name": "weather", "arguments": "{\\"city\\": \\"Bonn\\"}"}}',
        '{"type": "function", "name": "weather", "parameters": {"city": "Bonn"}}',
    ],
)
def test_a_call_is_found_in_every_form(text):
    assert auto(text) == ("", [BONN])


@pytest.mark.parametrize(
    "text",
    [
        "It is warm.",
        "",
        "  spaces around  ",
        "a < b and [T] <tool",
        '{"name": "Alice", "age": 3}',
        '{"name": "weather"}',
        '{"answer": 42}',
        "[1, 2, 3]",
        '{"name": "weather", "arguments": {"city": ',
        "<tool_call>no json</tool_call>",
        '<tool_call>{"name": "weather", "arguments": {"ci',
        "Write [TOOL_CALLS] before a call.",
        f"As in {CALL}",
        '{"name": "unknown", "arguments": {}}',
    ],
)
def test_what_is_no_call_stays_as_it_is(text):
    assert auto(text) == (text, [])


def test_words_before_and_between_calls_are_told_beside_them():
    text = (
        f'Let me see.\n<tool_call>{CALL}</tool_call>\n<tool_call>{{"name": "add", "arguments": {{"a": 1}}}}</tool_call>'
    )
    assert auto(text) == ("Let me see.", [BONN, ADD])
    assert auto(f"{LLAMA}; {CALL}") == ("", [BONN, BONN])
    assert auto(f"<tool_call>{CALL}</tool_call> Done.") == ("Done.", [BONN])


def test_of_calls_one_at_a_time_the_first_is_told():
    assert auto(f"<tool_call>{CALL}</tool_call><tool_call>{CALL}</tool_call>", at_most=1) == ("", [BONN])
    assert auto(f"[TOOL_CALLS][{CALL}, {CALL}]", at_most=1) == ("", [BONN])


def test_plain_text_is_told_as_it_comes():
    parser = Auto(NAMES)
    assert parser.push("one <") == [Words("one")]
    assert parser.push("b two") == [Words(" <b two")]
    assert Auto(NAMES).push('{"x') == [Words('{"x')]


def test_closers_of_calls_may_stand_in_arguments():
    call = '{"name": "add", "arguments": {"a": "</tool_call> } \\" {"}}'
    assert auto(f"<tool_call>{call}</tool_call>") == ("", [("add", {"a": '</tool_call> } " {'})])


def test_arguments_of_one_function_are_told_as_they_come():
    parser = OneFunction("add")
    pieces = [*parser.push(" "), *parser.push(' {"a"'), *parser.push(": 1}"), *parser.end()]
    read = joined(pieces)
    assert (read.text, read.calls[0].name, read.calls[0].arguments) == ("", "add", '{"a": 1}')


@pytest.mark.parametrize("size", [1, 3, 500])
def test_forced_calls_tell_their_name_and_then_their_arguments(size):
    text = f'[{CALL}, {{"name":"add","arguments":{{"a": "}}{{\\"", "b": [{{}}]}}}} ]'
    parser = ToldFunctions()
    pieces = [piece for at in range(0, len(text), size) for piece in parser.push(text[at : at + size])]
    read = joined([*pieces, *parser.end()])
    assert read.text == ""
    assert [(call.name, json.loads(call.arguments)) for call in read.calls] == [
        BONN,
        ("add", {"a": '}{"', "b": [{}]}),
    ]


def test_a_forced_call_that_was_cut_has_what_there_is_of_it():
    read = read_whole(ToldFunctions(), '{"name": "add", "arguments": {"a": ')
    assert (read.calls[0].name, read.calls[0].arguments) == ("add", '{"a": ')
