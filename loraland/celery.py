"""The Celery application: jobs on the site's side. Never tokens, never torch."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Final

from celery import Celery, bootsteps
from django.conf import settings
from redis import Redis
from redis.exceptions import RedisError

from loraland.liveness import SIGN_SECONDS, sign_of

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraland.settings")

SIGN_EVERY: Final = 5.0

app = Celery("loraland")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


class SignOfLife(bootsteps.StartStopStep):  # type: ignore[misc]
    """Shows in Redis that the main process of this host's worker turns, and that the Beat within it lives.

    Whether a job ends is Celery's own matter (`CELERY_TASK_TIME_LIMIT`): a long one is no sign of death.
    """

    requires = ("celery.worker.components:Timer", "celery.worker.components:Beat")

    def start(self, worker: Any) -> None:
        self._redis = Redis.from_url(settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1)
        worker.timer.call_after(0, self._show, (worker,))
        self._turns = worker.timer.call_repeatedly(SIGN_EVERY, self._show, (worker,))

    def stop(self, worker: Any) -> None:
        self._turns.cancel()
        self._redis.close()

    def _show(self, worker: Any) -> None:
        if worker.beat and not worker.beat.is_alive():
            return
        with suppress(RedisError):  # while it is away nobody looks, and the next turn shows it again
            self._redis.set(sign_of("celery"), 1, ex=SIGN_SECONDS)


app.steps["worker"].add(SignOfLife)
