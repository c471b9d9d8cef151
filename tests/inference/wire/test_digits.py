"""Numbers as strangers write them: their digits, their script, their size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.wire.digits import whole


@given(st.integers(0, 2**64 - 1))
def test_a_number_in_range_is_read(number):
    assert whole(str(number), 2**64 - 1) == number


@pytest.mark.parametrize(
    "text",
    ["", " 1", "+1", "-1", "1.0", "1e3", "1_0", "٣", "²", "0x1", "inf", "nan", "11", "9" * 5000, "0" * 20 + "9" * 40],
)
def test_all_else_is_refused_with_a_sentence(text):
    with pytest.raises(ValueError, match="not a whole number from 0 to 10"):
        whole(text, 10)


def test_a_number_below_the_least_is_refused():
    with pytest.raises(ValueError, match="from 2 to 10"):
        whole("1", 10, 2)
