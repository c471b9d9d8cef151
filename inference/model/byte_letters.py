"""The printable characters by which byte-level BPE writes the 256 bytes (Radford et al. 2019)."""

from __future__ import annotations

from typing import Final


def _alphabet() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTES: Final = _alphabet()
"""The byte of each character."""
_LETTERS: Final = {byte: letter for letter, byte in BYTES.items()}


def letters(data: bytes) -> str:
    """`data` as it stands in a vocabulary."""
    return "".join(map(_LETTERS.__getitem__, data))
