"""One training as a task of a cluster: claimed when the task has its resources, and done as by the training server.

The child process, its checkpoints, its cancellation and its one recorded outcome are those of `inference.server`: the
task speaks to Redis as a server does, and when its node is lost the lease ends and the next one goes on. The module
imports no Ray.
"""

from __future__ import annotations

import signal
from typing import Final

from redis import Redis

from inference.cluster.settings import TrainingPlan
from inference.cluster.surroundings import take_on
from inference.server.serve import WORK, ServerConfig, TrainingServer

SERVER: Final = "cluster"
"""What the trainings' queue calls all of them."""


def train_next(redis_url: str, plan: TrainingPlan) -> bool:
    """Do the training that waits longest, beside whatever else the node does; whether there was one.

    Ray cancels a task by an interrupt: the training then keeps a checkpoint and goes back to the queue.
    """
    take_on(plan.settings)
    with Redis.from_url(redis_url, decode_responses=True, socket_timeout=10) as redis:
        config = ServerConfig(SERVER, plan.lease_seconds, plan.command or WORK, is_reserved=True)
        server = TrainingServer(redis, config)
        signal.signal(signal.SIGINT, lambda *_: server.close())
        return server.run_one()
