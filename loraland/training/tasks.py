"""The jobs of trainings on Celery: every few seconds each training without an outcome takes its next step."""

from __future__ import annotations

from uuid import UUID

from celery import shared_task
from django.conf import settings
from django.db import InterfaceError, OperationalError
from redis import Redis, RedisError

from loraland.training.drafting import examine
from loraland.training.following import follow
from loraland.training.models import Training
from loraland.training.slices import measure_in_a_loop


@shared_task  # type: ignore[untyped-decorator]
def follow_trainings() -> None:
    """Have every training take its next step; a job that nobody comes to within a period is superseded by the next."""
    for pk in Training.objects.active().values_list("pk", flat=True):
        follow_training.apply_async([str(pk)], expires=settings.FOLLOW_TRAININGS_SECONDS)


@shared_task  # type: ignore[untyped-decorator]
def follow_training(pk: str) -> None:
    """Take the next step of one training, unless it has ended or another job has it.

    While a store or a disk is away the step is tried again without end; any other error counts.
    """
    training = Training.objects.claim(UUID(pk))
    if training is None:
        return
    try:
        take_step(training)
    except (RedisError, OperationalError, InterfaceError, OSError):
        training.release()
        raise
    except Exception as error:
        training.break_off(error)
        raise
    training.release()


def take_step(training: Training) -> None:
    """The step that its state asks for. Each may be taken again after an interruption."""
    state = Training.State
    if training.state in (state.WAITING, state.TRAINING):
        with Redis.from_url(settings.REDIS_URL, socket_timeout=5) as redis:
            follow(training, redis)
    elif training.is_unwanted:
        rest = "the draft stays." if training.version else "there is no draft."
        training.end(state.CANCELLED, f"It was cancelled before it was measured; {rest}")
    elif training.state == state.EXAMINING:
        examine(training)
    elif training.state == state.MEASURING:
        measure_in_a_loop(training)
