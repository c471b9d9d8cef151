"""Scores of an answer against its target, as pure functions, and the words for them. More is better in every one.

Every metric gives a row a `Tally`: what it earned and what it could have earned. A score is the sum of the one
over the sum of the other, so that means and micro F1 are computed, and resampled, in the same way.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from inference.tasks.words import nfc, plain, words

SCORING: Final = 2
"""The number of the rules here and in `inference.tasks.baseline`. It goes up when they give an answer another score:
what was scored by a lower one is scored again, or shown without a gain."""
MAX_ERROR: Final = 5.0
"""The width of the scale that `mae` is taken on."""
FINAL_ANSWER: Final = "####"

_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?")
_DECODER: Final = json.JSONDecoder()
_BRACE_OR_STRING: Final = re.compile(r'[{}]|"(?:[^"\\]|\\.)*+"?', re.DOTALL)
"""A string that nobody closes reaches to the end."""
_SIGNS: Final = str.maketrans({"\u2212": "-", "\u066b": "."})
"""The minus of mathematics and the decimal mark of Arabic digits."""


@dataclass(frozen=True)
class Tally:
    """What a row earned, and the most it could."""

    earned: float
    possible: float = 1.0


@dataclass(frozen=True)
class Words:
    """A metric for people: its name, and what a score by it means."""

    name: str
    meaning: str


@dataclass(frozen=True)
class Metric(Words):
    """Scores an answer against its target: `metric(answer, target)`. Where `is_whole` a row earns all or nothing."""

    tally: Callable[[str, str], Tally]
    is_whole: bool = False

    def __call__(self, answer: str, target: str) -> Tally:
        return self.tally(answer, target)


def score(tallies: Iterable[Tally]) -> float:
    """The score of many rows, 0 to 1. Nothing found where nothing was to be found is a perfect score."""
    rows = list(tallies)
    possible = sum(row.possible for row in rows)
    return sum(row.earned for row in rows) / possible if possible else 1.0


def accuracy(answer: str, target: str) -> Tally:
    """Whether `answer` is the label `target` exactly, white space around it aside."""
    return Tally(float(plain(answer) == plain(target)))


def exact_match(answer: str, target: str) -> Tally:
    """Whether `answer` is the whole `target`; where the target marks its final answer with ####, whether that is."""
    return Tally(float(_final(answer, target) == _final(target, target)))


def mae(answer: str, target: str) -> Tally:
    """1 - |error| / 5 for the first number of `answer`, not below 0; 0 where it has none."""
    number = first_number(answer)
    if number is None:
        return Tally(0.0)
    return Tally(max(0.0, 1.0 - abs(float(number) - float(target)) / MAX_ERROR))


def first_number(text: str) -> str | None:
    """The first number in `text`, whatever digits it is written in; None where there is none."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    number = _NUMBER.search(text)
    return number.group() if number else None


def rouge_l(answer: str, target: str) -> Tally:
    """F1 of the longest common subsequence of words (Lin 2004, without stemming), see `inference.tasks.words`."""
    ours, theirs = words(answer), words(target)
    if not ours or not theirs:
        return Tally(float(plain(answer) == plain(target)))
    return Tally(2 * longest_common_subsequence(ours, theirs) / (len(ours) + len(theirs)))


def f1_json(answer: str, target: str) -> Tally:
    """Micro F1 over the (key, value) pairs of two JSON objects; a list counts one pair an item.

    An answer that is not a JSON object has no pairs.
    """
    ours, theirs = json_pairs(answer), json_pairs(target)
    return Tally(2.0 * (ours & theirs).total(), float(ours.total() + theirs.total()))


def first_object(text: str) -> str | None:
    """The first JSON object in `text` from its first brace to the one that closes it; None where none is whole.

    What begins like an object and is none is passed over up to its end, so that no part of it is taken for the whole.
    """
    place = text.find("{")
    while place >= 0:
        try:
            return text[place : _DECODER.raw_decode(text, place)[1]]
        except (ValueError, RecursionError):
            begins_like_one = text[place + 1 :].lstrip()[:1] == '"'
            place = text.find("{", _closed(text, place) if begins_like_one else place + 1)
    return None


def _closed(text: str, place: int) -> int:
    """The place behind the brace that closes the one at `place`; behind all of `text` where none does."""
    depth = 0
    for found in _BRACE_OR_STRING.finditer(text, place):
        depth += {"{": 1, "}": -1}.get(found.group(), 0)
        if depth == 0:
            return found.end()
    return len(text)


def json_pairs(text: str) -> Counter[tuple[str, str]]:
    """The (key, value) pairs of the JSON object `text`; empty for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return Counter()
    if not isinstance(value, dict):
        return Counter()
    pairs = ((key, item) for key, items in value.items() for item in (items if isinstance(items, list) else [items]))
    return Counter((nfc(key), nfc(_written(item))) for key, item in pairs)


def _written(item: object) -> str:
    return item if isinstance(item, str) else json.dumps(item, sort_keys=True, ensure_ascii=False)


def longest_common_subsequence(first: list[str], second: list[str]) -> int:
    """The length of the longest common subsequence of two lists of words."""
    places: dict[str, int] = {}
    for index, word in enumerate(second):
        places[word] = places.get(word, 0) | 1 << index
    # A row of the table of lengths as bits, one for each word of `second`: 0 where the length grows (Hyyrö, 2004).
    flat = full = (1 << len(second)) - 1
    for word in first:
        matched = flat & places.get(word, 0)
        flat = ((flat + matched) | (flat - matched)) & full
    return len(second) - flat.bit_count()


METRICS: Final = {
    "accuracy": Metric(
        "accuracy", "the share of test rows whose answer is exactly the right label", accuracy, is_whole=True
    ),
    "exact_match": Metric(
        "exact match", "the share of test rows whose answer is exactly the expected text", exact_match, is_whole=True
    ),
    "f1_json": Metric(
        "F1 of fields", "how many fields and values of the expected JSON the answer has, and how few too many", f1_json
    ),
    "mae": Metric(
        "closeness", "100 less the mean distance from the right number, in parts of the scale; no number earns 0", mae
    ),
    "rouge_l": Metric(
        "ROUGE-L", "how much of the expected text's words appear in the answer in the same order (F1)", rouge_l
    ),
}
PUBLISHED: Final = {"humaneval": Words("HumanEval", "the share of programming problems whose tests the answer passes")}
"""Metrics of scores that were published elsewhere and that nothing here computes."""


def words_of(metric: str) -> Words:
    """The words for any metric; one that is not known here is called as it calls itself."""
    return METRICS.get(metric) or PUBLISHED.get(metric) or Words(metric.replace("_", " "), "")


def _final(text: str, target: str) -> str:
    text = plain(text)
    if FINAL_ANSWER not in target:
        return text
    return text.rpartition(FINAL_ANSWER)[2].strip().replace(",", "") if FINAL_ANSWER in text else ""
