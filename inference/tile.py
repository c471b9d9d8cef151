"""The piece of a prompt that is computed at once."""

from __future__ import annotations

from typing import Final

TILE: Final = 32
"""Its tokens. Tiles start at positions divisible by it, so a tile's shape depends on its position only; where rows are
uniform, and a tile's shape changes no bit, they start where something new does."""
