"""What to train on a data set, guessed from its rows: metric, prompt, instruction, examples. Owners may change it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from inference.tasks.data import Row
from inference.tasks.template import fill, label_of

Count = Callable[[str], int]
"""How many tokens a text has."""
MOST_LABELS: Final = 100
ROWS_A_LABEL: Final = 4
"""Targets count as labels when each is the answer of so many rows on average."""
NAMED_LABELS: Final = 20
"""So many labels are named in an instruction."""
WORDS_OF_A_TEXT: Final = 4
EXAMPLES: Final = 3
LONGEST_EXAMPLE: Final = 300
MOST_ANSWER_TOKENS: Final = 512
LONGEST: Final = 200
"""Of so many rows with the most bytes one has the most tokens, or nearly."""
_ANSWER_MARKS: Final = {"accuracy": "Label:", "f1_json": "JSON:", "rouge_l": "Text:", "exact_match": "Answer:"}
_CATEGORIES: Final = {"accuracy": "Classic NLP", "f1_json": "Structured", "rouge_l": "Classic NLP"}


@dataclass(frozen=True)
class Proposal:
    """What the form shows at first; `max_length` is in tokens."""

    metric: str
    template: str
    instruction: str
    category: str
    examples: list[dict[str, Any]]
    max_length: int


def propose(train: Sequence[Row], test: Sequence[Row], count: Count) -> Proposal:
    """A proposal for rows that all have the same fields."""
    rows = (*train, *test)
    metric = metric_of(rows)
    template = template_of(list(rows[0].inputs), metric)
    return Proposal(
        metric,
        template,
        instruction_of(rows, metric),
        _CATEGORIES.get(metric, "Knowledge"),
        [{"inputs": row.inputs, "expected": row.target} for row in _examples(test or train)],
        max_length(rows, template, count),
    )


def metric_of(rows: Sequence[Row]) -> str:
    """F1 of fields for JSON objects, accuracy for few labels, ROUGE-L for texts, else exact match."""
    targets = [row.target for row in rows]
    if all(map(_is_object, targets)):
        return "f1_json"
    distinct = len(set(targets))
    if distinct <= MOST_LABELS and ROWS_A_LABEL * distinct <= len(targets):
        return "accuracy"
    return "rouge_l" if fmean(len(target.split()) for target in targets) >= WORDS_OF_A_TEXT else "exact_match"


def misfit(metric: str, rows: Sequence[Row]) -> str:
    """Why `metric` cannot score these rows, in one sentence; empty when it can."""
    for row in rows:
        if metric == "f1_json" and not _is_object(row.target):
            return f"F1 of fields needs JSON objects, and a target is “{row.target[:60]}”; choose another metric."
        if metric == "mae" and not _is_number(row.target):
            return f"Closeness needs numbers, and a target is “{row.target[:60]}”; choose another metric."
    return ""


def template_of(fields: Sequence[str], metric: str) -> str:
    """Each field under its label, then a mark behind which the answer begins."""
    mark = _ANSWER_MARKS[metric]
    if mark.removesuffix(":").casefold() in {label_of(name).casefold() for name in fields}:
        mark = "Answer:"
    return "\n".join([*(f"{label_of(name)}: {{{name}}}" for name in fields), mark])


def instruction_of(rows: Sequence[Row], metric: str) -> str:
    """The plain request that the base is asked with, so that the comparison is fair."""
    if metric == "accuracy":
        labels = labels_of(rows)
        named = f"one of these: {', '.join(labels)}" if len(labels) <= NAMED_LABELS else f"a label such as {labels[0]}"
        return f"Answer with {named}."
    if metric == "f1_json":
        keys = sorted({key for row in rows[:200] for key in json.loads(row.target)})
        return f"Answer with a JSON object with the keys {', '.join(keys[:NAMED_LABELS])}."
    if metric == "rouge_l":
        return "Write the text that belongs to this."
    shortest = min((row.target for row in rows), key=len)
    return f"Answer in a few words, such as: {shortest[:120]}"


def labels_of(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(sorted({row.target for row in rows}))


def max_answer(rows: Sequence[Row], count: Count) -> int:
    """Tokens that the longest answer may need, and a few for another one."""
    longest = sorted({row.target for row in rows}, key=len)[-LONGEST:]
    return min(MOST_ANSWER_TOKENS, max(map(count, longest)) + 8)


def max_length(rows: Sequence[Row], template: str, count: Count) -> int:
    """Tokens that hold the longest rows with their prompts: a multiple of 64, from 128 to 1024.

    Where half of the rows would not fit those it goes on to 4096, lest nothing be left to learn from.
    """
    ordered = sorted(rows, key=_size)

    def length(row: Row) -> int:
        return count(fill(template, row.inputs)) + count(row.target) + 1

    most = 4096 if length(ordered[len(ordered) // 2]) > 1024 else 1024
    wanted = max(map(length, ordered[-LONGEST:]))
    return min(most, max(128, -(-wanted // 64) * 64))


def _size(row: Row) -> int:
    return len(row.target.encode()) + sum(len(value.encode()) for value in row.inputs.values())


def _examples(rows: Sequence[Row]) -> list[Row]:
    """A few short rows with different answers."""
    short = [row for row in rows if sum(map(len, row.inputs.values())) <= LONGEST_EXAMPLE] or list(rows[:1])
    of_target = {row.target: row for row in reversed(short)}
    return list(of_target.values())[::-1][:EXAMPLES]


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
