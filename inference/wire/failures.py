"""What a failure means, by its code: whose fault it is, and whether it passes by itself.

The one table from which both houses take what follows: the status at the API, the button under an error, whether a row
of a run or the proof of an adapter is asked for again. It holds the codes of `protocol.Failed`, and `unavailable`,
which the site says when the wire cannot be reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Fault = Literal["request", "adapter", "service"]


@dataclass(frozen=True)
class Meaning:
    """Whose fault a failure is, and whether the same request may be answered later though nobody changes anything."""

    fault: Fault
    passes: bool = False


FAILURES: Final[Mapping[str, Meaning]] = MappingProxyType(
    {
        "prompt_too_long": Meaning("request"),
        "invalid_request": Meaning("request"),
        "adapter_not_found": Meaning("adapter"),
        "adapter_refused": Meaning("adapter"),
        "out_of_memory": Meaning("service", passes=True),
        "queue_full": Meaning("service", passes=True),
        "worker_lost": Meaning("service", passes=True),
        "fingerprint_changed": Meaning("service", passes=True),
        "lost": Meaning("service", passes=True),
        "unavailable": Meaning("service", passes=True),
        "internal": Meaning("service"),
    }
)


def meaning_of(code: str) -> Meaning:
    """What `code` means; one of another version of the wire is the service's fault, and passes with that version."""
    return FAILURES.get(code, Meaning("service", passes=True))
