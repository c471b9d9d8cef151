"""Every code that either house gives a failure has a meaning in the one table."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.wire.failures import FAILURES, Meaning, meaning_of

REPO = Path(__file__).parents[3]
PLACES = {"Failed": 1, "failed": 0, "_fail": 1, "PromptError": 0}
"""Who is given a code, and as which argument."""


def codes() -> Iterator[tuple[str, str]]:
    """Where a code is written out, and the code."""
    for path in sorted([*(REPO / "inference").rglob("*.py"), *(REPO / "loraland").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(getattr(node, "func", None), "attr", getattr(getattr(node, "func", None), "id", ""))
            place = PLACES.get(name, 99)
            if isinstance(node, ast.Call) and place < len(node.args):
                match node.args[place]:
                    case ast.Constant(value=str(code)):
                        yield f"{path.relative_to(REPO)}:{node.lineno}", code


def test_every_code_that_is_given_is_in_the_table() -> None:
    given = list(codes())
    assert len(given) >= 8, "the places where codes are written out were found"
    assert [(where, code) for where, code in given if code not in FAILURES] == []


def test_the_wires_own_dooms_are_in_the_table() -> None:
    from inference.wire.contract import _SENTENCES

    assert set(_SENTENCES) <= set(FAILURES)


def test_only_the_service_s_failures_pass_by_themselves() -> None:
    assert {meaning.fault for meaning in FAILURES.values() if meaning.passes} == {"service"}
    assert meaning_of("of another version") == Meaning("service", passes=True)


@pytest.mark.parametrize("fault", ["request", "adapter", "service"])
def test_every_fault_has_codes(fault: str) -> None:
    assert any(meaning.fault == fault for meaning in FAILURES.values())
