"""What both databases can keep."""

from __future__ import annotations

import pytest

from inference.adapters.storable import is_storable


@pytest.mark.parametrize("value", ["plain", "ein Zug 🚂", r"an escape spelt out: \u0000", {"a": [1, 2.5, None, True]}])
def test_plain_values_are_kept(value):
    assert is_storable(value)


@pytest.mark.parametrize(
    "value", ["a\0b", "half \ud83d", {"a\0": 1}, [["\0"]], {"x": float("nan")}, r"\ "[0] + "\0"], ids=ascii
)
def test_what_postgresql_would_refuse_is_not(value):
    assert not is_storable(value)
