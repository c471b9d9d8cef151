from __future__ import annotations

import pytest

from inference.scheduling.sequence import Sequence, State


def test_tokens_run_from_the_prompt_into_the_answer() -> None:
    sequence = Sequence("a", (1, 2, 3), 10, output_ids=[4, 5, 6])
    assert [sequence.tokens(start, 2) for start in range(5)] == [[1, 2], [2, 3], [3, 4], [4, 5], [5, 6]]
    assert sequence.tokens(0, 6) == [1, 2, 3, 4, 5, 6]
    assert (sequence.num_prompt, sequence.num_tokens) == (3, 6)


def test_a_sequence_prefills_until_its_prompt_is_computed() -> None:
    sequence = Sequence("a", (1, 2, 3), 10, output_ids=[4])
    assert sequence.is_prefilling
    sequence.num_computed = 3
    assert not sequence.is_prefilling


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_ids": ()},
        {"num_computed": 3, "state": State.RUNNING},
        {"output_ids": [1, 2, 3]},
        {"block_table": (1,)},
        {"slot": 1},
        {"num_computed": 1},
    ],
)
def test_what_cannot_be_is_asserted(changes: dict[str, object]) -> None:
    fields: dict[str, object] = {"id": "a", "prompt_ids": (1, 2, 3), "max_tokens": 2}
    Sequence(**fields).check()  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        Sequence(**{**fields, **changes}).check()  # type: ignore[arg-type]
