"""What an adapter must beat: the base model at its best, and the best constant answer.

The base is asked in six honest ways, and its answers are read with good will: an answer that says the label,
the number or the JSON among other words counts. A gain over a straw man is no gain.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from inference.tasks.data import Row
from inference.tasks.metrics import METRICS, Tally, first_number, first_object, score
from inference.tasks.recipe import Recipe
from inference.tasks.template import fill, opening
from inference.tasks.words import fold, folded_letters, nfc, said_alone

STYLES: Final = {
    "template": "with the adapter's own prompt",
    "plain instruction": "with a plain instruction before the question",
    "instruction": "with a plain instruction in its chat format",
    "four examples": "with four worked examples before the question",
    "instruction and four examples": "with a plain instruction and four worked examples",
    "chat of four examples": "in a chat that shows four worked examples",
}
"""The adapter's own prompt and a plain request, each without and with examples, as text and as a chat; in words."""
SHOTS: Final = 4
BASE_TOKENS: Final = 24
"""The base may spend this many tokens at least, for it says more than a label."""
WIDER: Final = 3
"""So many times as many where labels are not in ASCII: a small base spends some tokens on each of their characters."""
LOOSER: Final = 2
"""So many times the tokens of an answer that is JSON: the base writes words before it, and white space within."""

Chat = tuple[tuple[str, str], ...]
"""Turns of a chat as (role, content)."""


def ask(style: str, row: Row, recipe: Recipe, shots: Sequence[Row]) -> str | Chat:
    """How the base is asked about `row`: a text to go on from, or a chat.

    `style` is one of `STYLES`; those with examples show `shots`.
    """
    filled, instruction = fill(recipe.template, row.inputs), recipe.instruction
    shown = [(fill(recipe.template, shot.inputs), shot.target) for shot in shots]
    examples = [f"{question} {answer}" for question, answer in shown]
    match style:
        case "template":
            return filled
        case "plain instruction":
            return f"{instruction}\n\n{filled}"
        case "instruction":
            return (("user", f"{instruction}\n\n{filled}"),)
        case "four examples":
            return "\n\n".join([*examples, filled])
        case "instruction and four examples":
            return "\n\n".join([instruction, *examples, filled])
        case "chat of four examples":
            turns = [turn for question, answer in shown for turn in (("user", question), ("assistant", answer))]
            turns.append(("user", filled))
            return (("user", f"{instruction}\n\n{turns[0][1]}"), *turns[1:])
    raise ValueError(f"there is no style {style!r}; choose one of {', '.join(STYLES)}")


def choose_shots(rows: Sequence[Row], recipe: Recipe) -> tuple[Row, ...]:
    """`SHOTS` rows of the training part: with short inputs, and of different labels where there are any."""
    short = sorted(rows, key=lambda row: sum(map(len, row.inputs.values())))
    candidates = short[len(short) // 8 : len(short) // 2]
    if not recipe.labels:
        return tuple(candidates[:: max(1, len(candidates) // SHOTS)][:SHOTS])
    seen: dict[str, list[Row]] = {}
    for row in candidates:
        seen.setdefault(row.target, []).append(row)
    groups = list(seen.values())
    return tuple(groups[index % len(groups)][index // len(groups)] for index in range(min(SHOTS, len(candidates))))


def read_answer(text: str, recipe: Recipe) -> str:
    """The answer that `text` of the base amounts to, in the form of the task's targets."""
    text = _first_answer(text, recipe)
    if recipe.labels:
        return _first_label(text, recipe.labels)
    if recipe.metric == "mae":
        return first_number(text) or text
    if recipe.metric == "f1_json":
        return first_object(text) or text
    return text


def max_tokens(recipe: Recipe) -> int:
    """How many tokens the base may spend on an answer."""
    if recipe.metric == "f1_json":
        return max(BASE_TOKENS, LOOSER * recipe.max_answer)
    fewest = BASE_TOKENS if "".join(recipe.labels).isascii() else WIDER * BASE_TOKENS
    return max(fewest, recipe.max_answer)


def stops(recipe: Recipe) -> tuple[str, ...]:
    """Where the base starts a question of its own: what comes after is not read, and need not be written."""
    head = opening(recipe.template).strip()
    return (f"\n\n{head}",) if head else ()


def best_constant(rows: Sequence[Row], recipe: Recipe) -> str:
    """The one answer that does best on `rows` of the training part: the commonest, or the median of numbers."""
    targets = [row.target for row in rows]
    if recipe.metric == "mae":
        return sorted(targets, key=float)[len(targets) // 2]
    return Counter(targets).most_common(1)[0][0]


def best_style(scored: dict[str, list[Tally]]) -> str:
    """The style of the highest score; the first of equals."""
    return max(scored, key=lambda style: score(scored[style]))


def tallies(texts: Sequence[str], rows: Sequence[Row], recipe: Recipe) -> list[Tally]:
    """The tally of each answer in `texts` against the row beside it."""
    metric = METRICS[recipe.metric]
    return [metric(text, row.target) for text, row in zip(texts, rows, strict=True)]


def _first_answer(text: str, recipe: Recipe) -> str:
    """`text` up to where the base starts a question of its own, or, for targets of one line, up to its end of line."""
    text = text.strip()
    for stop in stops(recipe):
        text = text.partition(stop)[0]
    return text if recipe.many_lines or recipe.metric == "f1_json" else text.partition("\n")[0].strip()


def _first_label(text: str, labels: Sequence[str]) -> str:
    """The label that `text` says first as a word of its own; the longest of those that start at the same place.

    Case counts only for labels of one letter, which would else be found in any sentence.
    """
    shown = nfc(text)
    letters = folded_letters(shown)
    folded, origin = "".join(letters), [index for index, letter in enumerate(letters) for _ in letter]
    places = []
    for label in labels:
        if len(nfc(label)) == 1:
            if found := re.search(said_alone(nfc(label)), shown):
                places.append((found.start(), -len(label), label))
        elif found := re.search(said_alone(fold(label)), folded):
            places.append((origin[found.start()], -len(label), label))
    return min(places)[2] if places else text
