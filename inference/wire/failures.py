"""What a failure or a refusal means, by its code: whose fault it is, and whether it passes by itself.

The one table from which both houses take what follows: the status at the API, the button under an error, whether a row
of a run or the proof of an adapter is asked for again. No other place decides by a code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Fault = Literal["text", "request", "choice", "adapter", "page", "service"]
"""Of what was written, of how it was asked, of what was chosen to answer, of that adapter's own files, of the page
that asks, of us."""
FailureCode = Literal[
    "prompt_too_long",
    "input_too_long",
    "invalid_request",
    "inputs_required",
    "bad_message",
    "adapter_not_found",
    "adapter_not_served",
    "model_not_found",
    "invalid_model",
    "adapter_refused",
    "no_session",
    "not_found",
    "unread",
    "too_many_running",
    "quota",
    "queue_full",
    "out_of_memory",
    "worker_lost",
    "fingerprint_changed",
    "lost",
    "unavailable",
    "internal",
]


@dataclass(frozen=True)
class Meaning:
    """Whose fault a failure is, and whether the same request may be answered later though nobody changes anything."""

    fault: Fault
    passes: bool = False


FAILURES: Final[Mapping[FailureCode, Meaning]] = MappingProxyType(
    {
        "prompt_too_long": Meaning("text"),
        "input_too_long": Meaning("text"),
        "invalid_request": Meaning("request"),
        "inputs_required": Meaning("request"),
        "bad_message": Meaning("request"),
        "adapter_not_found": Meaning("choice"),
        "adapter_not_served": Meaning("choice"),
        "model_not_found": Meaning("choice"),
        "invalid_model": Meaning("request"),
        "adapter_refused": Meaning("adapter"),
        "no_session": Meaning("page"),
        "not_found": Meaning("page"),
        "unread": Meaning("page"),
        "too_many_running": Meaning("service", passes=True),
        "quota": Meaning("service", passes=True),
        "queue_full": Meaning("service", passes=True),
        "out_of_memory": Meaning("service", passes=True),
        "worker_lost": Meaning("service", passes=True),
        "fingerprint_changed": Meaning("service", passes=True),
        "lost": Meaning("service", passes=True),
        "unavailable": Meaning("service", passes=True),
        "internal": Meaning("service"),
    }
)


def meaning_of(code: FailureCode) -> Meaning:
    """What `code` means. One of another version, in an old row or from the wire, is read like any: it is the service's
    fault, and passes with that version."""
    return FAILURES.get(code, Meaning("service", passes=True))
