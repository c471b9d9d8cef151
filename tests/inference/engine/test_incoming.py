"""Requests that wait for a fetch: how much room they take, and what a store that is away costs those after them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event

import pytest

from inference.engine import incoming
from inference.engine.incoming import MOST_WAITING, Arrival, Incoming
from inference.objects.failures import StoreAway
from inference.wire.capacity import Capacity
from inference.wire.protocol import AdapterRef, Generate
from tests.patience import PATIENCE

Open = Callable[[Callable[[str], None]], Incoming]


@pytest.fixture
def waiting() -> Iterator[Open]:
    """Requests that wait for what is fetched so, since nothing is here."""
    opened = []

    def make(fetch: Callable[[str], None]) -> Incoming:
        opened.append(Incoming(lambda digest: False, fetch))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def hold(held: Incoming, id: str, digest: str) -> None:
    assert held.hold(Generate(id, AdapterRef(digest), prompt="the ferry"), None, "chat")


def ended(held: Incoming) -> list[Arrival]:
    arrivals: list[Arrival] = []
    while held:
        arrivals += held.poll(1.0)
    return arrivals


def test_those_who_wait_take_half_of_the_room_until_they_are_too_many(waiting: Open) -> None:
    is_let_go, free = Event(), Capacity(total=8, chat=2, newcomers=1, idle=4)

    def hang(digest: str) -> None:
        is_let_go.wait(PATIENCE)

    held = waiting(hang)
    taken = []
    for number in range(MOST_WAITING):
        hold(held, f"{number}", "a" * 64)
        taken.append(8 - held.leaves(free).total)
    assert taken == [1, 2, 3, *[4] * (MOST_WAITING - 4), 8]
    assert not held.leaves(free)
    assert not held.leaves(Capacity())
    is_let_go.set()
    assert len(ended(held)) == MOST_WAITING


def test_a_store_that_did_not_answer_is_not_asked_for_a_while(waiting: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(digest: str) -> None:
        asked.append(digest)
        if digest == "a" * 64:
            raise StoreAway("does not answer")

    held = waiting(fetch)
    for digest in ("a" * 64, "b" * 64):
        hold(held, digest[:1], digest)
        (arrival,) = ended(held)
        assert arrival.failure
        assert isinstance(arrival.failure.error, StoreAway)
    assert asked == ["a" * 64]
    monkeypatch.setattr(incoming, "AWAY_SECONDS", 0.0)
    hold(held, "b", "b" * 64)
    (arrival,) = ended(held)
    assert arrival.failure is None
    assert asked == ["a" * 64, "b" * 64]
