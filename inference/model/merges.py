"""Byte-pair encoding from a list of ranks alone, as SentencePiece and tiktoken keep it."""

from __future__ import annotations

from collections.abc import Iterable


def merges_of(pieces: Iterable[str]) -> list[list[str]]:
    """The merges of `pieces`, the best first: every pair of them that makes another, in the order of what it makes.

    Both formats join whichever neighbours make the best piece, wherever it may be cut; so each cut is a merge. Of two
    cuts of one piece no text ever offers both in one place, so that their order is free.
    """
    ordered = list(pieces)
    known = set(ordered)
    return [
        [piece[:cut], piece[cut:]]
        for piece in ordered
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    ]
