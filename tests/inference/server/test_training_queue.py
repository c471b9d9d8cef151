"""The queue of trainings over a real Redis: one owner at a time, one end, nothing lost when a server dies."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from redis import Redis

from inference.server import queue
from inference.server.protocol import (
    Train,
    Trained,
    TrainingCancelled,
    TrainingEnd,
    TrainingFailed,
    TrainingProgress,
    decode,
    encode,
    is_end,
)
from inference.wire.codec import ProtocolError
from tests.patience import PATIENCE

LEASE = 30.0
SHORT = 0.05


@pytest.fixture(params=[{"decode_responses": True}, {"protocol": 2}, {"protocol": 3}], ids=["text", "resp2", "resp3"])
def redis(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Redis]:
    """A database of its own, through a client of each kind that the site or the server may use."""
    with Redis.from_url(redis_url, db=7, socket_timeout=PATIENCE, **request.param) as client:
        client.flushdb()
        yield client


def train(id: str) -> Train:
    return Train(id, 'name = "Tweets"', f"data/{id}", f"trained/{id}", "tiny")


def claim(redis: Redis, lease: float = LEASE) -> queue.TrainingClaim:
    claimed = queue.claim(redis, lease)
    assert claimed is not None
    return claimed


def story(redis: Redis, id: str) -> list[object]:
    return [event for _, event in queue.events(redis, id)]


@pytest.mark.parametrize(
    "message",
    [
        train("t"),
        TrainingProgress(0, 150),
        TrainingProgress(3, 150, 1.25, 80.5),
        Trained("/var/x", 900, 4.5),
        TrainingFailed("the data is empty; give it a row"),
        TrainingCancelled(4),
    ],
)
def test_a_message_comes_back_as_it_went(message: Train) -> None:
    assert decode(encode(message)) == decode(encode(message).encode()) == message


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "trained"}', '{"kind": "delta", "id": "x"}'])
def test_what_is_no_message_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError, match="unreadable message"):
        decode(text)


def test_a_number_that_is_none_is_not_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(TrainingProgress(1, 2, float("nan")))


@pytest.mark.parametrize("id", ["", "a:b", "queue", "servers", "x" * 65])
def test_an_id_that_cannot_be_a_key_is_refused(redis: Redis, id: str) -> None:
    with pytest.raises(ValueError, match="is not 1 to 64 letters"):
        queue.submit(redis, train(id))


def test_a_training_is_told_step_by_step_and_ends_once(redis: Redis) -> None:
    queue.submit(redis, train("t"))
    mine = claim(redis)
    assert (mine.train, mine.attempts, mine.step) == (train("t"), 1, 0)
    steps = [TrainingProgress(step, 2, 0.5, 1.0) for step in (1, 2)]
    assert all(queue.append(redis, mine, step) for step in steps)
    assert queue.finish(redis, mine, Trained("/x", 9, 0.1))
    assert not queue.finish(redis, mine, TrainingFailed("too late"))
    assert not queue.append(redis, mine, steps[0])
    assert story(redis, "t") == [*steps, Trained("/x", 9, 0.1)]
    assert queue.claim(redis, LEASE) is None


def test_a_follower_reads_on_from_its_cursor(redis: Redis) -> None:
    queue.submit(redis, train("t"))
    mine = claim(redis)
    assert queue.events(redis, "t", block_ms=1) == []
    queue.append(redis, mine, TrainingProgress(1, 2))
    [(cursor, first)] = queue.events(redis, "t")
    queue.append(redis, mine, TrainingProgress(2, 2))
    [(_, second)] = queue.events(redis, "t", cursor, block_ms=1000)
    assert (first, second) == (TrainingProgress(1, 2), TrainingProgress(2, 2))


def test_the_same_id_again_changes_nothing_even_after_its_end(redis: Redis) -> None:
    queue.submit(redis, train("t"))
    queue.submit(redis, Train("t", "other", "other", "other", "other"))
    mine = claim(redis)
    assert mine.train == train("t")
    assert queue.claim(redis, LEASE) is None
    queue.finish(redis, mine, TrainingFailed("no"))
    queue.submit(redis, train("t"))
    assert queue.claim(redis, LEASE) is None


def test_an_end_is_kept_for_a_while_and_the_job_forgotten(redis: Redis) -> None:
    assert not queue.is_known(redis, "t")
    queue.submit(redis, train("t"))
    assert queue.is_known(redis, "t")
    queue.finish(redis, claim(redis), TrainingFailed("no"))
    assert queue.is_known(redis, "t")
    assert 0 < redis.ttl(queue.stream_key("t")) <= queue.TTL_SECONDS
    assert len(redis.keys("training:*")) == 1


def test_trainings_are_claimed_in_the_order_of_their_submission(redis: Redis) -> None:
    for id in ("b", "a"):
        queue.submit(redis, train(id))
        time.sleep(0.002)
    assert [claim(redis).train.id for _ in range(2)] == ["b", "a"]


def test_nobody_else_gets_a_training_while_its_lease_is_renewed(redis: Redis) -> None:
    queue.submit(redis, train("t"))
    mine = claim(redis, SHORT)
    assert queue.renew(redis, mine, LEASE) == "held"
    time.sleep(2 * SHORT)
    assert queue.claim(redis, LEASE) is None


def test_the_training_of_a_dead_server_goes_to_the_next_and_its_sleeper_cannot_write(redis: Redis) -> None:
    queue.submit(redis, train("t"))
    dead = claim(redis, SHORT)
    queue.append(redis, dead, TrainingProgress(0, 9))
    time.sleep(2 * SHORT)
    mine = claim(redis)
    assert (mine.train, mine.attempts) == (train("t"), 2)
    assert queue.renew(redis, dead, LEASE) == "lost"
    assert not queue.append(redis, dead, TrainingProgress(1, 9))
    assert not queue.finish(redis, dead, TrainingFailed("I was here"))
    queue.release(redis, dead, crashed=True)
    assert queue.renew(redis, mine, LEASE) == "held"
    assert story(redis, "t") == [TrainingProgress(0, 9)]


def test_only_a_crash_counts_as_an_attempt_and_a_step_further_begins_the_count_anew(redis: Redis) -> None:
    queue.submit(redis, train("t"))
    attempts = []
    for crashed in (False, True, True, True):
        mine = claim(redis)
        attempts.append(mine.attempts)
        queue.append(redis, mine, TrainingProgress(0, 9))
        queue.release(redis, mine, crashed)
    assert attempts == [1, 1, 2, 3]
    mine = claim(redis)
    assert mine.attempts == 4
    queue.append(redis, mine, TrainingProgress(5, 9, 0.1))
    queue.release(redis, mine, crashed=True)
    again = claim(redis)
    assert (again.attempts, again.step) == (2, 5)


def test_what_is_given_back_comes_before_what_was_submitted_later(redis: Redis) -> None:
    for id in ("z", "a"):
        queue.submit(redis, train(id))
        time.sleep(0.002)
    queue.release(redis, claim(redis), crashed=False)
    assert claim(redis).train.id == "z"


def test_a_training_that_waits_is_cancelled_at_once(redis: Redis) -> None:
    queue.submit(redis, train("t"))
    queue.cancel(redis, "t")
    assert story(redis, "t") == [TrainingCancelled(0)]
    assert queue.claim(redis, LEASE) is None


def test_the_owner_of_a_training_is_asked_to_cancel_it(redis: Redis) -> None:
    queue.submit(redis, train("t"))
    mine = claim(redis)
    queue.cancel(redis, "t")
    assert story(redis, "t") == []
    assert queue.renew(redis, mine, LEASE) == "cancelled"
    assert queue.finish(redis, mine, TrainingCancelled(4))
    queue.cancel(redis, "t")
    assert story(redis, "t") == [TrainingCancelled(4)]


def test_a_training_left_by_a_dead_server_is_cancelled_at_the_step_it_had_reached(redis: Redis) -> None:
    queue.submit(redis, train("t"))
    queue.append(redis, claim(redis, SHORT), TrainingProgress(7, 9, 0.1))
    time.sleep(2 * SHORT)
    queue.cancel(redis, "t")
    assert story(redis, "t")[-1] == TrainingCancelled(7)


def test_cancelling_what_nobody_submitted_does_nothing(redis: Redis) -> None:
    queue.cancel(redis, "nobody")
    assert not queue.is_known(redis, "nobody")


def test_living_servers_are_listed_and_silent_ones_forgotten(redis: Redis) -> None:
    queue.beat(redis, "loud", 60)
    queue.beat(redis, "leaving", 60)
    queue.beat(redis, "silent", -1)
    queue.depart(redis, "leaving")
    assert queue.servers(redis) == ["loud"]


@pytest.mark.parametrize("end", [Trained("/x", 1, 1.0), TrainingFailed("no"), TrainingCancelled(1)])
def test_an_end_is_told_from_a_step(end: TrainingEnd) -> None:
    assert is_end(end)
    assert not is_end(TrainingProgress(9, 9, 0.1, 0.0))


def test_a_job_that_another_version_queued_ends_with_what_to_do_and_the_next_is_claimed(redis: Redis) -> None:
    queue.submit(redis, train("a"))
    redis.hset("training:a:job", "train", '{"type": "Train", "id": "a"}')
    queue.submit(redis, train("b"))
    assert queue.claim(redis, LEASE) is None
    assert story(redis, "a") == [TrainingFailed("It was queued by another version of LoRA Land; train again.")]
    assert claim(redis).train == train("b")
