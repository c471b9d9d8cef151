"""What a failure or a refusal means, by its code: whose fault it is, and whether it passes by itself.

The one table from which both houses take what follows: the status at the API, the button under an error, whether a row
of a run or the proof of an adapter is asked for again. No other place decides by a code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

Fault = Literal["text", "request", "choice", "adapter", "page", "service"]
"""Of what was written, of how it was asked, of what was chosen to answer, of that adapter's own files, of the page
that asks, of us."""


@dataclass(frozen=True)
class Meaning:
    """Whose fault a failure is, and whether the same request may be answered later though nobody changes anything."""

    fault: Fault
    passes: bool = False
    is_choosy: bool = False
    """Whether the caller could have waited for it longer."""


TooLong = Literal["prompt_too_long", "input_too_long"]
Misasked = Literal["invalid_request", "invalid_model", "inputs_required", "bad_message"]
Mischosen = Literal["adapter_not_found", "adapter_not_served", "model_not_found"]
Unusable = Literal["adapter_refused"]
Stale = Literal["no_session", "not_found", "unread"]
Crowded = Literal["too_many_running", "quota", "queue_full", "out_of_memory"]
Late = Literal["too_late"]
Broken = Literal["worker_lost", "fingerprint_changed", "lost", "unavailable"]
Wrong = Literal["internal"]
FailureCode = Literal[TooLong, Misasked, Mischosen, Unusable, Stale, Crowded, Late, Broken, Wrong]

_ROWS: Final = (
    (TooLong, Meaning("text")),
    (Misasked, Meaning("request")),
    (Mischosen, Meaning("choice")),
    (Unusable, Meaning("adapter")),
    (Stale, Meaning("page")),
    (Crowded, Meaning("service", passes=True)),
    (Late, Meaning("service", passes=True, is_choosy=True)),
    (Broken, Meaning("service", passes=True)),
    (Wrong, Meaning("service")),
)
FAILURES: Final[Mapping[FailureCode, Meaning]] = {code: meaning for codes, meaning in _ROWS for code in get_args(codes)}


def meaning_of(code: FailureCode) -> Meaning:
    """What `code` means. One of another version, in an old row or from the wire, is read like any: it is the service's
    fault, and passes with that version."""
    return FAILURES.get(code, Meaning("service", passes=True))
