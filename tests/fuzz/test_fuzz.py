"""Every fault that was found stays mended, and so many damaged inputs find no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.corpus import CORPUS
from tests.fuzz.inputs import INPUTS
from tests.fuzz.targets import TARGETS, shapes_of_the_base

EXAMPLES = 120


@pytest.fixture(scope="module", autouse=True)
def _shapes() -> Iterator[None]:
    with shapes_of_the_base():
        yield


def test_every_target_has_a_corpus_and_inputs() -> None:
    assert TARGETS.keys() == CORPUS.keys() == INPUTS.keys()


@pytest.mark.parametrize(("target", "name"), [(target, name) for target, found in CORPUS.items() for name in found])
def test_what_was_found_before_is_refused_or_taken(target: str, name: str) -> None:
    TARGETS[target](CORPUS[target][name])


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_inputs_are_refused_or_taken(target: str, data: st.DataObject) -> None:
    TARGETS[target](data.draw(INPUTS[target]))
