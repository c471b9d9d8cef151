"""What the environment asks of a cluster, and when a replica is of another revision."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from inference.cluster.policy import Bounds
from inference.cluster.replica import ReplicaPlan
from inference.cluster.settings import ClusterPlan, PoolPlan, read_plan
from inference.config import ConfigError

REPO = Path(__file__).parents[3]
TWO = {"BASE_MODELS": "small,large"}


def pool(environment: dict[str, str], revision: str = "") -> PoolPlan:
    return read_plan(environment, revision).pools[0]


def test_an_empty_environment_asks_for_one_to_four_replicas_of_a_processor_each_and_one_training() -> None:
    plan = read_plan({})
    [only] = plan.pools
    assert (only.key, only.bounds) == ("smollm2-135m-instruct", Bounds(1, 4, 2.0, 300.0))
    assert (only.cpus, only.gpus, only.drain_seconds) == (1.0, 0.0, 30.0)
    assert (plan.trainings.most, plan.trainings.cpus, plan.trainings.gpus) == (1, 1.0, 0.0)
    assert only.settings["DEVICE"] == "cpu", "without a part of a GPU"


def test_each_base_may_have_its_own_bounds_and_resources() -> None:
    small, large = read_plan(
        {**TWO, "REPLICAS": "1-4,large=2", "REPLICA_GPUS": "0,large=0.5", "REPLICA_CPUS": "large=4"}
    ).pools
    assert (small.bounds.low, small.bounds.high, small.gpus, small.cpus) == (1, 4, 0.0, 1.0)
    assert (large.bounds.low, large.bounds.high, large.gpus, large.cpus) == (2, 2, 0.5, 4.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REPLICAS", "4-1"),
        ("REPLICAS", "many"),
        ("REPLICAS", "1-"),
        ("REPLICA_CPUS", "-1"),
        ("REPLICA_GPUS", "half"),
        ("REPLICA_GPUS", "1.5"),
        ("TRAINING_GPUS", "2.5"),
        ("SCALE_UP_SECONDS", "0"),
        ("TRAININGS", "few"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}={value}"):
        read_plan({name: value})


def test_a_gpu_that_no_replica_gets_is_refused() -> None:
    with pytest.raises(ConfigError, match="REPLICA_GPUS=1"):
        read_plan({"DEVICE": "cuda"})


def test_another_setting_or_another_word_is_another_revision_and_other_bounds_are_not() -> None:
    now = pool({}).revision
    assert pool({"REPLICAS": "2-9", "SCALE_UP_SECONDS": "9", "HOME": "/elsewhere"}).revision == now
    assert pool({"MAX_ROWS": "64"}).revision != now
    assert pool({"REPLICA_CPUS": "2"}).revision != now
    assert pool({}, "second").revision != now


def test_equal_environments_are_equal_plans() -> None:
    assert read_plan(TWO) == read_plan(dict(TWO))
    assert isinstance(read_plan(TWO), ClusterPlan)


def test_a_replica_is_told_what_is_set_and_nothing_else_of_the_environment() -> None:
    told = pool({"MAX_ROWS": "8", "REDIS_URL": "redis://x", "SECRET": "s", "LOG_LEVEL": "error"}).settings
    assert told == {"MAX_ROWS": "8", "REDIS_URL": "redis://x", "LOG_LEVEL": "error", "DEVICE": "cpu"}


def test_its_threads_and_its_memory_follow_from_its_resources_unless_they_are_set() -> None:
    config = ReplicaPlan("tiny", "tiny-1", "r", {}, cpus=3, gpus=0.25).config({})
    assert (config.worker_name, config.threads, config.memory_share) == ("tiny-1", 3, 0.25)
    assert ReplicaPlan("tiny", "tiny-1", "r", {"THREADS": "2"}, cpus=3, gpus=0).config({}).threads == 2


def test_ray_is_imported_in_one_room_only() -> None:
    modules = [path for house in ("inference", "loraland") for path in (REPO / house).rglob("*.py")]
    users = {path.relative_to(REPO).parts[:2] for path in modules if "ray" in _imported(path.read_text())}
    assert users == {("inference", "cluster")}


def _imported(source: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize(("settings", "threads"), [({}, 8), ({"STAGES": "4"}, 2), ({"THREADS": "3"}, 3)])
def test_the_stages_of_a_replica_share_its_processors(settings: dict[str, str], threads: int) -> None:
    plan = ReplicaPlan("small", "small-1", "now", settings, cpus=8.0, gpus=0.0)
    assert plan.config({"BASE_MODEL": "small"}).threads == threads
