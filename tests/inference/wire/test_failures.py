"""Every code that either house gives a failure or a refusal has a meaning in the one table, and no other decides."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from inference.wire import claiming
from inference.wire.contract import terminal_of
from inference.wire.failures import FAILURES, FailureCode, Fault, Meaning, meaning_of
from inference.wire.protocol import Failed, decode, encode

REPO = Path(__file__).parents[3]
PLACES = {"Failed": 1, "failed": 0, "_fail": 1, "PromptError": 0, "Refused": 0, "terminal_of": 1}
"""Who is given a code, and as which argument."""


def sources() -> list[Path]:
    return sorted([*(REPO / "inference").rglob("*.py"), *(REPO / "loraland").rglob("*.py")])


def strings(node: ast.AST) -> Iterator[str]:
    return (part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str))


def codes() -> Iterator[tuple[str, str]]:
    """Where a code is written out, and the code."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(getattr(node, "func", None), "attr", getattr(getattr(node, "func", None), "id", ""))
            place = PLACES.get(name, 99)
            if isinstance(node, ast.Call) and place < len(node.args):
                match node.args[place]:
                    case ast.Constant(value=str(code)):
                        yield f"{path.relative_to(REPO)}:{node.lineno}", code


def test_every_code_that_is_given_is_in_the_table() -> None:
    given = list(codes())
    assert len(given) >= 30, "the places where codes are written out were found"
    assert [(where, code) for where, code in given if code not in FAILURES] == []


def test_every_code_has_a_row() -> None:
    assert set(get_args(FailureCode)) == set(FAILURES)


def test_what_ends_on_the_wire_ends_with_a_code_of_the_table_or_as_stopped() -> None:
    outcomes = set(re.findall(r"return '(\w+)'", claiming.CLAIM))
    assert outcomes - {"stopped", "other"} == {"worker_lost", "fingerprint_changed"} <= set(FAILURES)
    assert {terminal_of("a", outcome).code for outcome in outcomes - {"stopped", "other"}} <= set(FAILURES)


def test_no_place_but_the_table_tells_one_code_from_another() -> None:
    found = [
        f"{path.relative_to(REPO)}:{node.lineno}"
        for path in sources()
        for tree in [ast.parse(path.read_text())]
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and "code" in ast.unparse(node.left)
        if FAILURES.keys() & set(strings(node)) or named_codes(tree) & {ast.unparse(part) for part in ast.walk(node)}
    ]
    assert found == []


def named_codes(tree: ast.Module) -> set[str]:
    """The names that a module gives to codes."""
    given = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) and node.value]
    targets = [(ast.unparse(getattr(node, "target", None) or node.targets[0]), node.value) for node in given]
    return {name for name, value in targets if isinstance(value, ast.Constant) and value.value in FAILURES}


def test_an_end_with_a_code_of_another_version_is_read_as_an_end() -> None:
    failed = Failed("a", "of another version", "Try again.")  # type: ignore[arg-type]
    assert decode(encode(failed)) == failed


def test_only_the_service_s_failures_pass_by_themselves() -> None:
    assert {meaning.fault for meaning in FAILURES.values() if meaning.passes} == {"service"}
    assert meaning_of("of another version") == Meaning("service", passes=True)


@pytest.mark.parametrize("fault", get_args(Fault))
def test_every_fault_has_codes(fault: str) -> None:
    assert any(meaning.fault == fault for meaning in FAILURES.values())
