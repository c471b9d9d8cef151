"""Why a request is not accepted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from django.http import Http404

from inference.wire.failures import FailureCode, Fault, meaning_of
from loraland import outage

STATUSES: Final[dict[Fault, int]] = {
    "text": 400,
    "request": 400,
    "choice": 404,
    "adapter": 422,
    "page": 404,
    "service": 500,
}


def status_of(code: FailureCode) -> int:
    """The HTTP status of a failure; what may succeed later is 503, or 429 where the caller did not want to wait."""
    meaning = meaning_of(code)
    if meaning.is_choosy:
        return 429
    return 503 if meaning.passes else STATUSES[meaning.fault]


class Refused(Exception):
    """A request that never becomes an answer.

    `code` is for programs, `sentence` for people, `status` the HTTP status where another fits better than the code's,
    `retry_after` the seconds after which trying again may help, and `param` the part of the request at fault.
    """

    def __init__(
        self,
        code: FailureCode,
        sentence: str,
        status: int | None = None,
        retry_after: int | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.status = status or status_of(code)
        self.retry_after = retry_after
        self.param = param


@contextmanager
def refused_is_not_found() -> Iterator[None]:
    """Let a page that is refused what it should show be one that is not there."""
    try:
        yield
    except Refused as refusal:
        raise Http404(refusal.sentence) from refusal


def unwritable() -> Refused:
    """What is refused because it could not be written down."""
    return Refused("unavailable", outage.SENTENCE, retry_after=outage.RETRY_SECONDS)


@contextmanager
def refused_in_an_outage() -> Iterator[None]:
    """Raise what is refused where database or disk cannot do their work."""
    try:
        yield
    except Exception as error:
        if not outage.is_outage(error):
            raise
        outage.note(error, "accepting a request")
        raise unwritable() from error
