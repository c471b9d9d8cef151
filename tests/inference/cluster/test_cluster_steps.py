"""How a pool becomes as it is to be: what is started, drained and put away."""

from __future__ import annotations

from inference.cluster.steps import LAST_PLACE_SECONDS, PLACE_SECONDS, Replica, Step, steps

NEW, OLD = "new", "old"


def replica(number: int, state="ready", revision: str = NEW, seconds: float = 1.0, running: int = 0) -> Replica:
    return Replica(number, revision, state, seconds, running)


def told(replicas: list[Replica], wanted: int) -> list[tuple[str, int]]:
    return [(step.do, step.number) for step in steps(replicas, wanted, NEW)]


def test_what_is_missing_is_started_under_the_first_free_numbers() -> None:
    assert steps([], 2, NEW) == [Step("start", 1), Step("start", 2)]
    assert told([replica(1), replica(3)], 4) == [("start", 2), ("start", 4)]


def test_one_that_drains_is_not_counted_and_keeps_its_number() -> None:
    assert told([replica(1, "draining"), replica(2)], 2) == [("start", 3)]


def test_one_that_has_ended_is_put_away() -> None:
    assert told([replica(1, "ended"), replica(2)], 1) == [("remove", 1)]


def test_of_too_many_the_one_with_least_to_do_is_drained() -> None:
    assert told([replica(1, running=9), replica(2, running=2), replica(3, running=5)], 2) == [("drain", 2)]
    assert told([replica(1), replica(2)], 1) == [("drain", 2)]
    assert told([replica(1), replica(2, "loading")], 1) == [("drain", 2)]
    assert told([replica(1), replica(2, "waiting")], 1) == [("remove", 2)]


def test_a_new_revision_begins_beside_the_old_and_replaces_it_one_by_one() -> None:
    old = [replica(1, revision=OLD), replica(2, revision=OLD)]
    assert told(old, 2) == [("start", 3)]
    assert told([*old, replica(3, "loading")], 2) == []
    assert told([*old, replica(3)], 2) == [("drain", 2)]
    assert told([old[0], replica(2, "draining", OLD), replica(3)], 2) == [("start", 4)]
    assert told([old[0], replica(3), replica(4, "loading")], 2) == []
    assert told([old[0], replica(3), replica(4)], 2) == [("drain", 1)]
    assert told([replica(3), replica(4)], 2) == []


def test_where_there_is_no_place_beside_the_old_one_of_them_goes_first() -> None:
    old = [replica(1, revision=OLD), replica(2, revision=OLD)]
    assert told([*old, replica(3, "waiting")], 2) == []
    assert told([*old, replica(3, "waiting", seconds=PLACE_SECONDS)], 2) == [("drain", 2)]
    leaving = replica(2, "draining", OLD)
    assert told([old[0], leaving, replica(3, "waiting", seconds=PLACE_SECONDS)], 2) == []


def test_the_last_that_serves_stays_longer_while_the_new_one_has_no_place() -> None:
    last = replica(1, revision=OLD)
    assert told([last, replica(2, "waiting", seconds=PLACE_SECONDS)], 1) == []
    assert told([last, replica(2, "waiting", seconds=LAST_PLACE_SECONDS)], 1) == [("drain", 1)]


def test_an_old_one_that_does_not_serve_goes_at_once() -> None:
    assert told([replica(1, "loading", OLD), replica(2, revision=OLD)], 2) == [("drain", 1)]
    assert told([replica(1, "waiting", OLD, PLACE_SECONDS), replica(2, revision=OLD)], 2) == [("remove", 1)]
    assert told([replica(1, "waiting", OLD), replica(2, revision=OLD)], 2) == [("start", 3)]
