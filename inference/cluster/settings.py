"""The environment of a cluster of workers, read once: how many replicas of each base, and what each may take."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inference.bases import base_key
from inference.cluster.policy import Bounds
from inference.config import ConfigError, Environment, bases_of, read_config
from inference.model import torch_environment

_HOUSE: Final = Path(__file__).parents[1]
DRAIN_SECONDS: Final = 30.0
_OWN: Final = frozenset({"WORKER_NAME", "REPLICAS", "SCALE_UP_SECONDS", "SCALE_DOWN_SECONDS"})
"""What says nothing to a worker: a pool of other bounds has the same replicas."""
_WHOLE: Final = {"QUANTIZATION": "none", "ADAPTER_QUANTIZATION": "none"}
"""What is read in fewer bits is trained on whole."""


@dataclass(frozen=True)
class PoolPlan:
    """The pool of one base: `bounds` of its size, what each replica takes, how long one that goes may finish what it
    has, and the `revision` of settings and code that is wanted."""

    base: str
    bounds: Bounds
    cpus: float
    gpus: float
    drain_seconds: float
    rows: int
    slots: int
    settings: Mapping[str, str]
    revision: str

    @property
    def key(self) -> str:
        """What queues call the base."""
        return base_key(self.base)


@dataclass(frozen=True)
class TrainingPlan:
    """How many trainings may be at work at once, what each takes, and the `command` of its process, empty for
    the product's own as it is called on the node."""

    most: int
    cpus: float
    gpus: float
    lease_seconds: float
    settings: Mapping[str, str]
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClusterPlan:
    """All that whoever keeps the cluster needs to know; of equal plans one is as good as the other."""

    redis_url: str
    pools: tuple[PoolPlan, ...]
    trainings: TrainingPlan


def read_plan(environ: Mapping[str, str] = os.environ, revision: str = "") -> ClusterPlan:
    """Read what the environment asks of a cluster. Another `revision`, any text, replaces all replicas.

    Raises `ConfigError` naming the variable, its value and what it may be.
    """
    seen = _Seen(environ)
    config, models = read_config(seen), bases_of(seen)
    pools = tuple(_read_pool(seen, base, models, revision) for base in models)
    env = Environment(seen, models[0], models)
    gpus = env.amount("TRAINING_GPUS", 0.0)
    trainings = TrainingPlan(
        most=env.whole("TRAININGS", 1, 0, 1024),
        cpus=env.amount("TRAINING_CPUS", 1.0),
        gpus=gpus,
        lease_seconds=config.lease_seconds,
        settings=seen.told | _WHOLE | ({} if gpus else {"DEVICE": "cpu"}),
    )
    return ClusterPlan(config.redis_url, pools, trainings)


def _read_pool(seen: _Seen, base: str, models: tuple[str, ...], revision: str) -> PoolPlan:
    config = read_config(seen, base)
    env = Environment(seen, base, models)
    gpus = env.amount("REPLICA_GPUS", 0.0)
    if config.device == "cuda" and not gpus:
        raise ConfigError(f"DEVICE=cuda needs a part of a GPU for each replica of {base}: REPLICA_GPUS=1, say, or 0.5")
    low, high = env.between("REPLICAS", "1-4", 1024)
    bounds = Bounds(
        low,
        high,
        env.seconds("SCALE_UP_SECONDS", 2.0, 0.05, 3600.0),
        env.seconds("SCALE_DOWN_SECONDS", 300.0, 1.0, 86_400.0),
    )
    cpus, drain_seconds = env.amount("REPLICA_CPUS", 1.0), env.seconds("DRAIN_SECONDS", DRAIN_SECONDS, 0.0, 3600.0)
    for name in (*torch_environment.SETTINGS, "LOG_LEVEL"):
        seen.get(name)
    settings = seen.told | ({} if gpus else {"DEVICE": "cpu"})
    now = _revision([base, cpus, gpus, settings, revision])
    return PoolPlan(base, bounds, cpus, gpus, drain_seconds, config.max_rows, config.adapter_slots, settings, now)


def _revision(of: object) -> str:
    """A short name of the code of this house and of what it is told; another where either is another."""
    digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode())
    for path in sorted(path for ending in ("*.py", "*.h", "*.cpp", "*.jinja") for path in _HOUSE.rglob(ending)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


class _Seen(Mapping[str, str]):
    """The environment, and in `told` what of it was looked up and is set: what a worker elsewhere must be told too."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.told: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        value = self._environ[name]
        if name not in _OWN:
            self.told[name] = value
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._environ)

    def __len__(self) -> int:
        return len(self._environ)
