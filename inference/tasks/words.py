"""What a word is, in any script: a run of letters, digits and their marks; one character where words have no spaces.

In ASCII that is a run of a-z and 0-9. Case and the ways in which Unicode writes one character do not count.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache
from typing import Final

_ASCII_WORD: Final = re.compile(r"[a-z0-9]+")
_UNSPACED: Final = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Myanmar and what was added to it
    "\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\uaa80-\uaadf"  # Khmer, Tai Le, New Tai Lue, Tai Tham, Tai Viet
    "\u1b00-\u1b7f\ua980-\ua9df"  # Balinese, Javanese
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u303c"  # radicals, marks and numerals of Han
    "\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\uff66-\uff9f"  # Kana, Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uf900-\ufaff"  # Han, Yi
    "\U00016fe0-\U00018d7f\U0001aff0-\U0001b2ff\U00020000-\U0003ffff"  # Tangut, Khitan, Nüshu, more Kana, more Han
)
"""The scripts that set no spaces between words, as the inside of a character class."""
_DOTTED_I: Final = "i\u0307"
"""What the Turkish capital İ becomes without its case."""
_SPACE_OF_NO_WIDTH: Final = "\u200b"
_PLANES: Final = (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0))
"""Where Unicode has its marks."""


def words(text: str) -> list[str]:
    """The words of `text` in their order, without case."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    found: list[str] = _word().findall(fold(text))
    return found


def nfc(text: str) -> str:
    """`text` in one of the ways in which Unicode writes it."""
    return unicodedata.normalize("NFC", text)


def plain(text: str) -> str:
    """`text` in one of the ways in which Unicode writes it, without white space around it."""
    return nfc(text).strip()


def fold(text: str) -> str:
    """`text` without case and without what is not seen: joiners, soft hyphens, marks of direction."""
    return text.lower() if text.isascii() else "".join(folded_letters(nfc(text)))


def folded_letters(text: str) -> list[str]:
    """What each character of `text` becomes in `fold`: none, one or several characters."""
    return [_folded(letter) for letter in text]


@lru_cache(maxsize=1 << 14)
def _folded(letter: str) -> str:
    is_unseen = unicodedata.category(letter) == "Cf" and letter != _SPACE_OF_NO_WIDTH
    return "" if is_unseen else letter.casefold().replace(_DOTTED_I, "i")


def said_alone(word: str) -> str:
    """A pattern that finds `word` where no letter, digit or mark goes on from it; without spaces, no mark."""
    spaced, marks = rf"[^\W{_UNSPACED}]", f"[{_marks()}]"
    before = rf"(?<!{spaced})" if not _is_unspaced(word[:1]) else ""
    after = rf"(?!{spaced}|{marks})" if not _is_unspaced(word[-1:]) else f"(?!{marks})"
    return f"{before}{re.escape(word)}{after}"


def count(text: str) -> int:
    """How many words and other marks that are seen `text` has; ``_`` is a letter here, as in the names of programs."""
    if not text.isascii():
        text = _mark().sub("", fold(text))
    return len(_counted().findall(text))


def _is_unspaced(character: str) -> bool:
    return re.fullmatch(f"[{_UNSPACED}]", character) is not None


@cache
def _word() -> re.Pattern[str]:
    marks = f"[{_marks()}]"
    return re.compile(rf"(?:[^\W_{_UNSPACED}]{marks}*)+|[^\W_]{marks}*")


@cache
def _counted() -> re.Pattern[str]:
    return re.compile(rf"[^\W{_UNSPACED}]+|\w|[^\w\s]")


@cache
def _mark() -> re.Pattern[str]:
    return re.compile(f"[{_marks()}]")


@cache
def _marks() -> str:
    """The marks that are written above, below or behind a letter, as the inside of a character class."""
    numbers = [number for number in _PLANES if unicodedata.category(chr(number)).startswith("M")]
    known = set(numbers)
    starts = [number for number in numbers if number - 1 not in known]
    ends = [number for number in numbers if number + 1 not in known]
    return "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))
