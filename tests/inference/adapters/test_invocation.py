"""What a config may say of an invocation, and where in a prompt that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inference.adapters.file import AdapterRefused
from inference.adapters.invocation import place_of, read_invocation
from inference.adapters.store import AdapterStore, Told
from inference.wire.protocol import UNINVOKED
from tests.inference.checkpoints import load_base, make_adapter, make_model

ACTIVATED: dict[str, Any] = {"alora_invocation_tokens": [5, 6], "task_type": "CAUSAL_LM"}


@pytest.mark.parametrize(
    ("prompt", "place"),
    [
        ([5, 6], 0),
        ([1, 5, 6, 2], 1),
        ([5, 6, 1, 5, 6, 2], 3),
        ([5, 5, 6], 1),
        ([5, 6, 5], 0),
        ([6, 5], UNINVOKED),
        ([5], UNINVOKED),
        ([], UNINVOKED),
    ],
)
def test_the_place_is_where_the_last_occurrence_begins(prompt: list[int], place: int) -> None:
    assert place_of((5, 6), prompt) == place


def test_occurrences_that_overlap_count_too() -> None:
    assert place_of((5, 5), (5, 5, 5, 1)) == 1


@pytest.mark.parametrize("given", [None, [], False])
def test_an_empty_invocation_asks_for_nothing(given: Any) -> None:
    assert read_invocation({"alora_invocation_tokens": given}) == ((), [])


def test_what_invokes_an_adapter_is_told_before_it_is_loaded_and_part_of_its_identity(
    tiny_model: Path, store: Path
) -> None:
    adapters = AdapterStore(store, load_base(tiny_model))
    plain, activated = make_adapter(tiny_model, store), make_adapter(tiny_model, store, **ACTIVATED)
    other = make_adapter(tiny_model, store, **ACTIVATED | {"alora_invocation_tokens": [6, 5]})
    assert len({plain, activated, other}) == 3
    assert make_adapter(tiny_model, store / "again", alora_invocation_tokens=[]) == plain
    assert [adapters.told(digest).invocation for digest in (plain, activated, other)] == [(), (5, 6), (6, 5)]
    assert [adapters.load(digest).is_activated for digest in (plain, activated)] == [False, True]
    assert adapters.told("0" * 64) == Told()


def test_tokens_beyond_the_vocabulary_invoke_nothing(tiny_model: Path, store: Path) -> None:
    digest = make_adapter(tiny_model, store, **ACTIVATED | {"alora_invocation_tokens": [5, 131]})
    with pytest.raises(AdapterRefused, match=r"has tokens beyond the 131 of [^:]*: 131"):
        AdapterStore(store, load_base(tiny_model)).load(digest)


@pytest.mark.parametrize("trained", [{"bias": "all"}, {"trainable_token_indices": [3, 4]}])
def test_what_changes_tokens_before_the_invocation_is_refused(
    tmp_path: Path, store: Path, trained: dict[str, Any]
) -> None:
    model = make_model(tmp_path / "model", attention_bias=True)
    digest = make_adapter(model, store, **ACTIVATED, **trained)
    with pytest.raises(AdapterRefused, match="may not train what changes the tokens before its invocation too"):
        AdapterStore(store, load_base(model)).load(digest)
