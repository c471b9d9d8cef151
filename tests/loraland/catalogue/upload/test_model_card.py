"""The prompt that a README of the hub shows, whatever else it holds."""

from __future__ import annotations

import pytest

from loraland.catalogue.upload.model_card import template_of

SAMPLE = "Sample input:\n### Question: Who?\n\n### Answer:"


@pytest.mark.parametrize(
    "end", ["", "\n\n---\nmore", "\n**Sample output:** me", "\n\n   ---   \n### More: a", "\n- - Sample output"]
)
def test_a_sample_ends_before_its_output_or_a_rule(end: str) -> None:
    assert template_of(SAMPLE + end) == "### Question: {question}\n\n### Answer:"


@pytest.mark.parametrize("start", ["", "\n\n\n", "# A title\n\n**", "   - ", "words\n\n> * "])
def test_a_sample_may_begin_anywhere(start: str) -> None:
    assert template_of(start + SAMPLE) == "### Question: {question}\n\n### Answer:"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "pump", ["\n", " \n", "\n-", "* ", "Sample input", "###", "### ", "### a:#", "### a\n\n", "\\-"]
)
@pytest.mark.parametrize("start", ["", "Sample input", "Sample input:\n", "Sample input:\n### a"])
def test_a_readme_of_the_largest_size_is_read_in_one_go(start: str, pump: str) -> None:
    readme = start + (pump * 256_000)[:256_000]
    assert template_of(f"{readme}\n\n### Answer") in {"", template_of(f"{start}{pump * 3}\n\n### Answer")}
