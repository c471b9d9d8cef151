"""What a text looks like: which n-grams of characters, words and shapes of words it has, hashed into buckets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import log2
from typing import Final
from zlib import crc32

BUCKETS: Final = 2048
MOST_CHARS: Final = 4000
"""So much of a text is looked at, and its length."""
_SPACE: Final = re.compile(r"[ \t]+")
_WORD: Final = re.compile(r"\w+|[^\w\s]|\n")
_LETTER: Final = re.compile(r"[^\W\d_]")
_LOWER: Final = re.compile(r"x+")
_DIGIT: Final = re.compile(r"\d")


def buckets(text: str) -> list[int]:
    """The buckets of `text`, at most BUCKETS, each once and in order; an empty text has some, too."""
    return sorted({crc32(gram.encode("utf-8", "replace")) % BUCKETS for gram in set(_grams(text))})


def _grams(text: str) -> Iterator[str]:
    """Three characters in a row, words, and up to three shapes in a row, each kind with its letter before it."""
    head = text[:MOST_CHARS]
    plain = f" {_SPACE.sub(' ', head.lower())} "
    yield from ("c" + plain[start : start + 3] for start in range(len(plain) - 2))
    yield from ("w" + word for word in _WORD.findall(plain))
    shapes = [_shape(word) for word in _WORD.findall(head)]
    for length in (1, 2, 3):
        yield from ("s" + " ".join(shapes[start : start + length]) for start in range(len(shapes) - length + 1))
    yield f"l{int(2 * log2(len(text) + 1))}"
    yield "b" + (shapes[0] if shapes else "")
    yield "e" + (shapes[-1] if shapes else "")


def _shape(word: str) -> str:
    """`word` with X for capitals, x for a run of other letters and 9 for digits: Xx, 9999, XX99."""
    letters = _LETTER.sub(lambda found: "X" if found[0].isupper() else "x", word)
    return _LOWER.sub("x", _DIGIT.sub("9", letters))
