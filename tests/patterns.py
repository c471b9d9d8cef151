"""Regular expressions measured: how the work grows on texts made from a pattern itself that double in length."""

from __future__ import annotations

import ast
import re
import re._constants as sre  # type: ignore[import-not-found]
import re._parser as sre_parser  # type: ignore[import-not-found]
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

CALLS: Final = {"compile", "match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"}
LIKELY: Final = " a0A_.-\n\t:;=\"'#*"
FIRST_CHARS, LAST_CHARS = 1_000, 64_000
NOTHING_SECONDS: Final = 0.001
"""Of processor time; an expression that reads each of `FIRST_CHARS` a few times needs a fiftieth of it."""
ENOUGH_SECONDS: Final = 0.05
RUNAWAY_SECONDS: Final = 2.0
MOST_GROWTH: Final = 3.0
"""Where the text doubles: linear work grows by 2, quadratic by 4."""


Uses = Sequence[Callable[[str], object]]


@dataclass(frozen=True)
class Found:
    """An expression of the code, and where it stands. `pattern` is None where it is only known at run time."""

    place: str
    pattern: str | None
    flags: int
    is_anchored: bool
    """Whether it is only tried from one place on, by `match` or `fullmatch`, and never from each."""


class RunawayError(Exception):
    """The matcher did not come back."""


def expressions(root: Path, folders: tuple[str, ...]) -> Iterator[Found]:
    """Every regular expression that the modules below `folders` of `root` name."""
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and node.args and _takes_an_expression(node.func):
                flags = sum({flag for flag in re.RegexFlag if f"re.{flag.name}" in ast.unparse(node)})
                place = f"{path.relative_to(root)}:{node.lineno}"
                yield Found(place, _text(node.args[0]), flags, _is_anchored(node, source))


def _takes_an_expression(function: ast.expr) -> bool:
    name = ast.unparse(function)
    return name.rpartition(".")[2] in {"RegexValidator", "RegexField", "re_path"} or (
        name.startswith("re.") and name[3:] in CALLS
    )


def _is_anchored(node: ast.Call, source: str) -> bool:
    if (function := ast.unparse(node.func)) != "re.compile":
        return function in {"re.match", "re.fullmatch"}
    named = re.match(r"(_\w+)", source.splitlines()[node.lineno - 1])
    uses = re.findall(rf"\b{named[1]}\b(?!:)\.?(\w*)", source) if named else []
    return bool(uses) and set(uses) <= {"match", "fullmatch"}


def _text(node: ast.expr) -> str | None:
    """A literal as it stands, with a word in the place of what is only known at run time."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "word" for part in node.values)
    return None


def worst_growth(pattern: str, flags: int = 0, is_anchored: bool = False) -> tuple[float, str]:
    """How the work grows at worst where the text doubles, and on which text; 1 where there is hardly any work."""
    compiled = re.compile(pattern, flags)
    uses = [compiled.match, compiled.fullmatch] if is_anchored else [compiled.fullmatch, compiled.findall]
    tree = sre_parser.parse(pattern, flags)
    worst, which = 1.0, ""
    for start, pump, end in product(_starts(tree), _pumps(tree), ("", "\0", "\n\0")):
        growth = _growth(uses, start, pump, end)
        if growth > worst:
            worst, which = growth, f"{start!r} + {pump!r} × n + {end!r}"
        if worst > MOST_GROWTH:
            break
    return worst, which


def _growth(uses: Uses, start: str, pump: str, end: str) -> float:
    """The least growth of three doublings, as a busy machine makes any one of them dearer."""
    length, before = FIRST_CHARS // 8, 0.0
    try:
        _seconds(uses, start + pump * (length // len(pump)) + end)
        length = FIRST_CHARS
        before = _seconds(uses, start + pump * (length // len(pump)) + end)
        if before < NOTHING_SECONDS:
            return 1.0
        while before < ENOUGH_SECONDS and length < LAST_CHARS:
            length *= 2
            before = _seconds(uses, start + pump * (length // len(pump)) + end)
        if before < ENOUGH_SECONDS:
            return 1.0
        half, whole = (start + pump * (chars // len(pump)) + end for chars in (length // 2, length))
        before = min(_seconds(uses, half) for _ in range(3))
        after = min(_seconds(uses, whole) for _ in range(3))
        return after / before if before else 1.0  # a clock of few ticks
    except RunawayError:
        return float("inf")


def _seconds(uses: Uses, text: str) -> float:
    """Processor time for all of `uses`. Raises `RunawayError` after `RUNAWAY_SECONDS`."""

    def run_away(*_: object) -> None:
        raise RunawayError

    former = signal.signal(signal.SIGVTALRM, run_away)
    signal.setitimer(signal.ITIMER_VIRTUAL, RUNAWAY_SECONDS)
    try:
        begun = time.process_time()
        for use in uses:
            use(text)
        return time.process_time() - begun
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, former)


def _starts(tree: Any) -> list[str]:
    """Nothing, and every beginning of a text that matches."""
    whole = _sample(tree, 1)
    return ["", *dict.fromkeys(whole[:end] for end in range(1, min(len(whole), 12) + 1))]


def _pumps(tree: Any) -> list[str]:
    """Texts for each part of the expression, and each one or two of the characters that it tells apart."""
    parts = ["\n", *(_sample(part, times) for part in _parts(tree) for times in (1, 2))]
    characters = [part for part in dict.fromkeys(parts) if len(part) == 1][:8]
    pumps = [*parts, *map("".join, product(characters, repeat=2))]
    return [pump for pump in dict.fromkeys(pumps) if 0 < len(pump) < 40]


def _parts(tree: Any) -> Iterator[Any]:
    yield tree
    for node in tree:
        yield [node]
        for inner in _inside(node):
            yield from _parts(inner)


def _inside(node: tuple[Any, Any]) -> list[Any]:
    kind, value = node
    if kind in {sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT}:
        return [value[2]]
    if kind is sre.BRANCH:
        return list(value[1])
    if kind is sre.SUBPATTERN:
        return [value[3]]
    if kind in {sre.ASSERT, sre.ASSERT_NOT}:
        return [value[1]]
    return [value] if kind is sre.ATOMIC_GROUP else []


def _sample(tree: Any, times: int) -> str:
    """A text that `tree` matches, as far as that can be said without trying; repeats are taken `times`."""
    return "".join(_one(node, times) for node in tree)


def _one(node: tuple[Any, Any], times: int) -> str:
    kind, value = node
    if kind is sre.LITERAL:
        return chr(value)
    if kind in {sre.IN, sre.NOT_LITERAL, sre.ANY}:
        allowed = re.compile(_set(node), re.DOTALL)
        return next((character for character in LIKELY + "Aaz(){}[]<>|`~" if allowed.fullmatch(character)), "")
    if kind in {sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT}:
        low, high, body = value
        return _sample(body, times) * min(int(high), max(int(low), times))
    if kind in {sre.ASSERT, sre.ASSERT_NOT, sre.AT}:
        return ""
    inner = _inside(node)
    return _sample(inner[0], times) if inner else ""


def _set(node: tuple[Any, Any]) -> str:
    """The class of characters `node` as an expression of its own."""
    kind, value = node
    if kind is sre.ANY:
        return "."
    if kind is sre.NOT_LITERAL:
        return f"[^{re.escape(chr(value))}]"
    categories = {sre.CATEGORY_DIGIT: r"\d", sre.CATEGORY_NOT_DIGIT: r"\D", sre.CATEGORY_SPACE: r"\s"}
    categories |= {sre.CATEGORY_NOT_SPACE: r"\S", sre.CATEGORY_WORD: r"\w", sre.CATEGORY_NOT_WORD: r"\W"}
    written = ""
    for what, which in value:
        if what is sre.NEGATE:
            written += "^"
        elif what is sre.LITERAL:
            written += re.escape(chr(which))
        elif what is sre.RANGE:
            written += f"{re.escape(chr(which[0]))}-{re.escape(chr(which[1]))}"
        else:
            written += categories[which]
    return f"[{written}]"
