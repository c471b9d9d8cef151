"""Whether all got what they were promised: the database's rows against what a calm day gave, and what was heard."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.bench.site import Site
from tests.chaos.lanes import Heard

WHOLE: Final = ("done", "length")
ROWS: Final = """
import json
from loraland.generations.models import Generation
rows = Generation.objects.filter(source__in=["chat", "api"]).order_by("created")
fields = ("id", "status", "text", "error_code", "error", "request")
print(json.dumps([{**row, "id": row["id"].hex} for row in rows.values(*fields)]))
"""
END_SECONDS: Final = 240
TURNED_AWAY: Final = ("lost: The answering service cannot be reached", "lost: This request was lost on its way")
"""How the error of a row begins whose request was not queued: its asker was told so in place of an answer, or was cut
off with the web process, killed between the row and the queue."""


@dataclass(frozen=True)
class Row:
    """An accepted request: what was asked (`question` is the same for the same question), and its recorded outcome."""

    id: str
    question: str
    status: str
    text: str
    error: str


@dataclass
class Verdict:
    """`unread` are answers whose asker was never told of them; they may be stopped for want of a reader. Who was
    `turned_away` because nothing could be queued was never told that an answer had begun."""

    requests: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    unread: int = 0
    turned_away: int = 0

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.changed or self.errors)

    def line(self, faults: int) -> str:
        return (
            f"faults {faults}, requests {self.requests}, lost {len(self.lost)}, doubled {len(self.doubled)}, "
            f"changed {len(self.changed)}, errors {self.errors.total()}"
        )


async def rows_at_the_end(site: Site) -> list[Row]:
    """All rows, once every one of them has an outcome, or after so long without."""
    for _ in range(END_SECONDS // 5):
        rows = await asyncio.to_thread(rows_of, site)
        if all(row.status != "queued" for row in rows):
            break
        await asyncio.sleep(5)
    return rows


def rows_of(site: Site) -> list[Row]:
    return [_row(row) for row in json.loads(site.manage("shell", "--verbosity", "0", "-c", ROWS).splitlines()[-1])]


def _row(values: dict[str, Any]) -> Row:
    request = values["request"]
    asked = [request[name] for name in ("adapter", "messages", "inputs", "sampling")]
    question = json.dumps(asked, sort_keys=True)
    error = f"{values['error_code']}: {values['error']}" if values["error_code"] else ""
    return Row(values["id"], question, values["status"], values["text"], error)


def judge(rows: Iterable[Row], calm: Mapping[str, str], heard: Iterable[Heard]) -> Verdict:
    """`calm` is the text of each question on a calm day."""
    told = {answer.id.removeprefix("chatcmpl-").replace("-", ""): answer for answer in heard}
    verdict = Verdict()
    for row in rows:
        verdict.requests += 1
        _judge(verdict, row, calm[row.question], told.pop(row.id, None))
    verdict.lost += [f"{id} was accepted and has no row" for id in told]
    return verdict


def _judge(verdict: Verdict, row: Row, calm: str, heard: Heard | None) -> None:
    # No database keeps a NUL, which random weights say now and then.
    said = heard.text.replace("\0", "") if heard else ""
    if row.status == "error" and heard is None and row.error.startswith(TURNED_AWAY):
        verdict.turned_away += 1
    elif row.status == "error":
        verdict.errors[row.error] += 1
    elif row.status == "stopped" and heard is None:
        verdict.unread += 1
    elif row.status not in WHOLE:
        verdict.lost.append(f"{row.id} is {row.status}")
    elif row.text != calm:
        verdict.changed.append(f"{row.id}: {_parting(row.text, calm)}")
    elif heard and heard.end not in WHOLE:
        verdict.lost.append(f"{row.id} is whole, and its asker was told {heard.end or 'no end'!r}")
    elif heard and len(said) > len(row.text):
        verdict.doubled.append(f"{row.id}: {_parting(said, row.text)}")
    elif heard and said != row.text:
        verdict.lost.append(f"{row.id}: {_parting(said, row.text)}")


def _parting(one: str, other: str) -> str:
    """Where two texts part, with a few characters of both."""
    at = next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    return f"at {at} of {len(one)} and {len(other)}: {one[at : at + 20]!r} and {other[at : at + 20]!r}"
