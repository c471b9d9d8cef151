"""Structure is told from prose as one expression would tell it, and in time that grows with the text alone."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loraland.playground.structure import MAX_STRUCTURED_CHARS, is_structured

MEANT = re.compile(
    r"[A-Za-z_]\w*\(.*\)[.;]?"
    r"|(?:SELECT\s.+\sFROM|INSERT INTO|UPDATE|DELETE FROM)\s.+"
    r"|[\w .\"']{1,40}\s?[=:]\s?[^;|\n]+(?:[;|]\s?[\w .\"']{1,40}\s?[=:]\s?[^;|\n]*)+;?",
    re.DOTALL,
)
"""What is meant, in one expression: right on short texts, and on long ones its work doubles with each pair."""


@given(st.text("aB_1 .'\"=:;|\n(-", max_size=24).map(str.strip))
@example("a = b; c = d")
@example("a:; b:")
@example("a: 1; b:")
@example("a=\n1|b=\n;")
@example("a = 1\n; b = 2")
@example("a(b);")
def test_a_short_text_is_structure_when_the_expression_says_so(text: str) -> None:
    assert is_structured(text) is ("\n\n" not in text and bool(MEANT.fullmatch(text)))


@pytest.mark.parametrize("text", ["UPDATE a SET b = 1", "SELECT a FROM b", "DELETE FROM a", "f(x)", "[]", '{"a": 1}'])
def test_calls_queries_and_json_are_structure(text: str) -> None:
    assert is_structured(text)


@pytest.mark.parametrize("text", ["SELECT FROM", "update a", "f(x) y", "[", "{1}", "", "3", "a = b", "a ; b"])
def test_what_is_only_like_it_is_not(text: str) -> None:
    assert not is_structured(text)


PUMPED = ["a = b; ", "Field: value; ", "a = b;", "a:;", "x | y = ", " ;", "''='';", "f(", "SELECT a FROM ", "\n= "]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("pump", PUMPED)
@pytest.mark.parametrize("end", ["", "\n!", "?", "(", "\x00"])
def test_a_long_row_is_what_a_short_one_is(pump: str, end: str) -> None:
    many = (MAX_STRUCTURED_CHARS - len(end)) // len(pump)
    short, long = (f"{pump * count}{end}".strip() for count in (3, many))
    assert is_structured(long) is bool(MEANT.fullmatch(short))


@pytest.mark.timeout(60)
def test_a_form_with_one_line_more_is_prose() -> None:
    form = " ".join(f"Field {n}: value {n};" for n in range(12))
    assert is_structured(form)
    assert not is_structured(f"{form}\nand one more line.\nAnd another")
    assert not is_structured("a = b; " * 40 + "\n.")


def test_what_is_too_long_to_be_read_as_a_record_is_prose() -> None:
    form = "a = b; " * MAX_STRUCTURED_CHARS
    assert is_structured(form[:MAX_STRUCTURED_CHARS].strip())
    assert not is_structured(form)
