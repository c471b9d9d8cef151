"""The boundary around reading what somebody gave: whatever is wrong with it is a reason, by contract, not by list."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

MOST_CHARS: Final = 200
"""So much of an error's own words is told."""
_MOST_SHOWN: Final = 60
_NO_PLACE: Final = frozenset({errno.EINVAL, errno.EOVERFLOW})
"""What a system says of a place in a file that no file has, which is asked for by what the file itself holds."""

log = logging.getLogger(__name__)


class Refused(ValueError):
    """What was given cannot be used; the message is a sentence that says what was wrong and what would work."""


@contextmanager
def reading(what: str, refusal: Callable[[str], Exception], *passing: type[Exception]) -> Iterator[None]:
    """Turn whatever goes wrong within into the `refusal` of a sentence that says that `what` could not be read.

    A refusal of that type passes as it is, and so does what is ours to answer (`is_ours`, and errors of `passing`).
    All else nobody foresaw: it is logged with its traceback.
    """
    try:
        yield
    except Exception as error:
        refused = refusal(f"{what} could not be read ({_kind_and_words(error)}); make the file again.")
        if is_ours(error) or isinstance(error, (type(refused), *passing)):
            raise
        log.warning("%s could not be read, in a way that nobody foresaw", what, exc_info=True)
        raise refused from error


def shown(value: Any) -> str:
    """A value or a name out of a file as a sentence may quote it: cut short, and no character of it is obeyed."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"


def is_ours(error: BaseException) -> bool:
    """Whether `error` tells of this machine, its memory or its disk, and not of the file that was read."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in _NO_PLACE)


def said(error: Exception) -> str:
    """An error's own words as a sentence may have them: cut short, no character of what was read is obeyed."""
    text = str(error)[:MOST_CHARS]
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def _kind_and_words(error: Exception) -> str:
    text = said(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
