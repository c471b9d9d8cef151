"""The table of docs/clients.md: a row a client, a mark a column, and the reasons below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from tests.clients.clients import COLUMNS, Client
from tests.clients.proving import Proof

INTRODUCTION = """# Clients

What unmodified clients of OpenAI's, Anthropic's, LoRAX's and TGI's servers find here. Each ✓ is a script in
`tests/clients/probes`, run over the wire against a site as `make run` starts it, with the newest package that installs
beside its neighbours; `make clients` writes this page anew. Scripts judge shapes, types and JSON that is valid for its
schema; what a base of 135 million parameters says is not judged. – is not offered or was not run: the note says why.
"""


@dataclass(frozen=True)
class Row:
    """One client, its version and what it proved; `missing` says why there is no proof at all."""

    client: Client
    version: str = ""
    proofs: tuple[Proof, ...] = ()
    missing: str = ""


def page(rows: Sequence[Row], base: str, day: date) -> str:
    """The whole document."""
    head = ["| client | " + " | ".join(COLUMNS.values()) + " |", "|" + "---|" * (len(COLUMNS) + 1)]
    notes: list[str] = []
    lines = [_line(row, notes) for row in rows]
    numbered = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    about = f"Taken on {day.isoformat()} with {base}."
    return "\n".join([INTRODUCTION, about, "", *head, *lines, "", "Notes:", "", *numbered, ""])


def _line(row: Row, notes: list[str]) -> str:
    if row.missing:
        return f"| {row.client.title} |" + f" –{_number(row.missing, notes)} |" * len(COLUMNS)
    proofs: Mapping[str, Proof] = {proof.column: proof for proof in row.proofs}
    cells = [_cell(column, proofs.get(column), row.client, notes) for column in COLUMNS]
    return f"| {row.client.title} {row.version} | " + " | ".join(cells) + " |"


def _cell(column: str, proof: Proof | None, client: Client, notes: list[str]) -> str:
    if proof is None:
        return "–" + _number(
            client.absent.get(
                column, "Not asked: the client has no way of its own for it, or its script does not try."
            ),
            notes,
        )
    if column == "own" and proof.works:
        return f"✓ {proof.note}".strip()
    return ("✓" if proof.works else "✗") + (_number(proof.note, notes) if proof.note else "")


def _number(note: str, notes: list[str]) -> str:
    if note not in notes:
        notes.append(note)
    return f" ({notes.index(note) + 1})"
