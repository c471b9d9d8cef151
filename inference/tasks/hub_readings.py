"""Rows of the hub whose columns do not map plainly to ours: each reading is a small function on one row.

A reading gets the row, the name of its target column and the labels of its whole numbers; it returns the row with
columns that a recipe can name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

Raw = Mapping[str, Any]
Reading = Callable[[Raw, str, Sequence[str]], Raw]

_CALCULATION: Final = re.compile(r"<<[^<>\n]*+>>")
_MARK: Final = re.compile(r"(?<!\s)\s++\[\w++\]\s*+|\[\w++\]\s*+")
_LETTERS: Final = "ABCDEFGH"


def lettered_choices(row: Raw, target: str, labels: Sequence[str]) -> Raw:
    """`choices` as lines "A. …", and the right one's letter in place of its number or of the source's own label."""
    choices, right = row["choices"], row[target]
    if isinstance(choices, Mapping):
        choices, right = choices["text"], list(choices["label"]).index(right)
    lines = "\n".join(f"{letter}. {text}" for letter, text in zip(_LETTERS, choices, strict=False))
    return {**row, "choices": lines, target: _LETTERS[right]}


def exam_question(row: Raw, target: str, labels: Sequence[str]) -> Raw:
    """As `lettered_choices`, with a `subject` of plain words."""
    return lettered_choices({**row, "subject": row["subject"].replace("_", " ")}, target, labels)


def endings(row: Raw, target: str, labels: Sequence[str]) -> Raw:
    """`endings` as lines "1. …", the number of the right one (`label`) in `answer`, its text in `ending`; no marks."""
    texts = [_plain(text) for text in row["endings"]]
    right = int(row["label"])
    lines = "\n".join(f"{number}. {text}" for number, text in enumerate(texts, start=1))
    return {**row, "ctx": _plain(row["ctx"]), "endings": lines, "answer": str(right + 1), "ending": texts[right]}


def named_entities(row: Raw, target: str, labels: Sequence[str]) -> Raw:
    """`tokens` as one `text`, and under `target` a JSON object: for each kind of name its names, each once.

    `labels` are those of the tags, as O, B-kind and I-kind.
    """
    found: dict[str, list[list[str]]] = {label[2:]: [] for label in labels if label.startswith("B-")}
    before = ""
    for word, tag in zip(row["tokens"], row[target], strict=True):
        mark, kind = labels[tag][:2], labels[tag][2:]
        if kind and (mark == "B-" or kind != before):
            found[kind].append([word])
        elif kind:
            found[kind][-1].append(word)
        before = kind
    names = {kind: list(dict.fromkeys(" ".join(words) for words in lines)) for kind, lines in found.items()}
    return {**row, "text": " ".join(row["tokens"]), target: json.dumps(names, ensure_ascii=False)}


def without_calculations(row: Raw, target: str, labels: Sequence[str]) -> Raw:
    """The target without the marks ``<<48/2=24>>`` of a calculator."""
    return {**row, target: _CALCULATION.sub("", row[target])}


READINGS: Final[dict[str, Reading]] = {
    "endings": endings,
    "exam question": exam_question,
    "lettered choices": lettered_choices,
    "named entities": named_entities,
    "without calculations": without_calculations,
}


def _plain(text: str) -> str:
    """`text` without marks such as [title]."""
    return _MARK.sub(" ", text).strip()
