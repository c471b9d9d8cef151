"""A pool, look by look, between what Ray says of its replicas and what Redis has heard of them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from inference.cluster.pool import Pool
from inference.cluster.replica import Standing
from inference.cluster.settings import read_plan
from inference.cluster.stage import ANSWER_SECONDS, Placed, worker_name
from inference.cluster.steps import Step
from inference.wire.cluster import ReplicaState
from inference.wire.protocol import EngineLoad, Heartbeat
from inference.wire.waiting import Waiting

[PLAN] = read_plan({"REPLICAS": "1-4"}).pools
QUIET = Waiting()


@dataclass(frozen=True)
class Seen:
    number: int
    revision: str = PLAN.revision
    state: ReplicaState = "ready"
    node: str = "node"
    seconds: float = 60.0

    @property
    def name(self) -> str:
        return worker_name(PLAN.key, self.number, self.revision)


def beat(number: int, reloads: int = 0) -> Heartbeat:
    load = EngineLoad(reloads=reloads)
    return Heartbeat(Seen(number).name, PLAN.key, ready=True, fingerprint="f", time=time.time(), load=load)


def test_no_old_replica_goes_before_redis_has_heard_of_the_new_one() -> None:
    pool, seen = Pool(PLAN, 1), [Seen(1, revision="old"), Seen(2)]
    assert pool.look(seen, [beat(1)], QUIET)[1] == []
    assert pool.look(seen, [beat(1), beat(2)], QUIET)[1] == [Step("drain", 1)]


def test_one_that_serves_and_is_too_busy_to_answer_ray_is_drained_and_not_killed() -> None:
    seen = [Seen(1), Seen(2, state="waiting")]
    assert Pool(PLAN, 1).look(seen, [beat(1), beat(2)], QUIET)[1] == [Step("drain", 2)]
    assert Pool(PLAN, 1).look(seen, [beat(1)], QUIET)[1] == [Step("remove", 2)]


def test_workers_of_two_clusters_on_one_redis_have_names_of_their_own() -> None:
    assert worker_name("tiny", 1, "9e745990") != worker_name("tiny", 1, "5ce86606")


def test_old_replicas_of_which_redis_has_just_lost_the_heartbeats_stay() -> None:
    seen = [Seen(1, revision="old"), Seen(2, revision="old")]
    assert Pool(PLAN, 2).look(seen, [], QUIET)[1] == [Step("start", 3)]


def test_reloads_from_before_a_change_are_no_reason_for_the_next() -> None:
    pool = Pool(PLAN, 1)
    pool.look([Seen(1)], [beat(1)], QUIET)
    grown, _ = pool.look([Seen(1)], [beat(1, reloads=10 * PLAN.slots)], QUIET)
    assert grown is not None
    assert "came back to the device" in grown.reason
    pool._trend = type(pool._trend)()  # as after its rest
    assert pool.look([Seen(1)], [beat(1, reloads=10 * PLAN.slots)], QUIET)[0] is None


def test_a_replica_that_was_started_again_while_it_drained_is_asked_once_more() -> None:
    placed = Placed(PLAN.key, 1, "now", None)
    placed.drained = time.monotonic()
    placed._take(Standing("ready", "node", 1))
    assert placed.state == "draining", "it may not have heard yet"
    placed.drained -= ANSWER_SECONDS + 1
    placed._take(Standing("loading", "node", 2))
    assert placed.state == "loading"
