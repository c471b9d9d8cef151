"""How many tokens rows have, as the trainer counts them."""

from __future__ import annotations

from collections.abc import Sequence

from inference.tasks.data import Row
from inference.tasks.proposal import Count
from inference.tasks.template import fill
from loraland.base_files import base_tokenizer
from loraland.bases import Base
from loraland.refusal import Refused


def counter(base: Base) -> Count:
    """Counts the tokens of a text by the tokenizer of `base`; where that is not here by bytes, of which a token has one
    at least."""
    try:
        tokenizer = base_tokenizer(base)
    except Refused:
        return lambda text: len(text.encode())
    return lambda text: len(tokenizer.encode_text(text))


def lengths_of(rows: Sequence[Row], template: str, count: Count) -> tuple[int, ...]:
    """The tokens of each row in its prompt: those of the filled template, of the target, and the end."""
    return tuple(count(fill(template, row.inputs)) + count(row.target) + 1 for row in rows)
