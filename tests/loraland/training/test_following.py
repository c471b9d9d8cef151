"""A training and its server: what is asked for, what is written down, and what survives a loss on either side."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from redis import Redis
from redis.exceptions import ConnectionError as RedisIsAway

from inference.server import queue as training_queue
from inference.server.protocol import Trained, TrainingCancelled, TrainingEnd, TrainingFailed, TrainingProgress
from inference.server.queue import TrainingClaim
from inference.tasks.recipe import load_recipe
from loraland.evals.models import DataSet
from loraland.training import rows
from loraland.training.models import LEASE, MOST_BREAKS, Training
from loraland.training.tasks import follow_training, take_step
from tests.loraland.training.moods import lines

Plan = Callable[..., Training]


@pytest.fixture
def step(redis: Redis) -> Callable[[Training], Training]:
    """`step(training)` does what the periodic job does, and reads the row anew."""

    def run(training: Training) -> Training:
        follow_training(str(training.pk))
        return Training.objects.get(pk=training.pk)

    return run


Step = Callable[[Training], Training]


def claimed(redis: Redis) -> TrainingClaim:
    claim = training_queue.claim(redis, 60)
    assert claim is not None
    return claim


def test_a_training_is_queued_with_its_rows_and_a_recipe_that_can_be_read(
    plan: Plan, step: Step, redis: Redis, tmp_path: Path
) -> None:
    training = step(plan())
    job = claimed(redis).train
    assert (job.id, job.base) == (training.wire_id, "SmolLM2-135M-Instruct")
    (tmp_path / "moods.toml").write_text(job.recipe)
    assert load_recipe("moods", tmp_path) == training.recipe
    train, test = (Path(job.data, f"{part}.jsonl").read_text().splitlines() for part in ("train", "test"))
    assert (len(train), len(test)) == (48, 12)
    assert {json.loads(row)["inputs"]["text"] for row in train}.isdisjoint(
        json.loads(r)["inputs"]["text"] for r in test
    )


def test_only_the_fields_of_the_prompt_are_learnt(plan: Plan, step: Step, redis: Redis, upload) -> None:
    two = [json.dumps({"inputs": {"text": f"t{n}", "id": str(n)}, "target": "joy"}).encode() + b"\n" for n in range(30)]
    training = step(plan(data=upload(two)))
    first = (training.folder / "data/train.jsonl").read_text().splitlines()[0]
    assert set(json.loads(first)["inputs"]) == {"text"}


def test_a_test_part_of_its_own_is_what_is_scored(plan: Plan, step: Step, redis: Redis, upload) -> None:
    training = step(plan(data=upload(lines(40), lines(10, 40))))
    kept = {part: len((training.folder / f"data/{part}.jsonl").read_text().splitlines()) for part in ("train", "test")}
    assert kept == {"train": 40, "test": 10}


def test_steps_are_written_down_with_loss_and_time_left(plan: Plan, step: Step, redis: Redis) -> None:
    training = step(plan())
    claim = claimed(redis)
    for number, loss in ((0, None), (1, 3.0), (2, 2.5)):
        training_queue.append(redis, claim, TrainingProgress(number, 40, loss, 90.0))
    training = step(training)
    assert (training.state, training.step, training.losses) == ("training", 2, [[1, 3.0], [2, 2.5]])
    assert training.seconds_left == 90.0
    assert training.started is not None


def test_steps_that_are_told_again_after_a_crash_count_once(plan: Plan, step: Step, redis: Redis) -> None:
    training = step(plan())
    claim = claimed(redis)
    for number in (1, 2, 3):
        training_queue.append(redis, claim, TrainingProgress(number, 40, 3.0 / number))
    training = step(training)
    for number in (2, 3, 4):
        training_queue.append(redis, claim, TrainingProgress(number, 40, 3.0 / number))
    training = step(training)
    assert training.losses == [[1, 3.0], [2, 1.5], [3, 1.0], [4, 0.75]]


def test_a_training_that_redis_has_forgotten_is_queued_again(plan: Plan, step: Step, redis: Redis) -> None:
    training = step(plan())
    training_queue.append(redis, claimed(redis), TrainingProgress(5, 40, 1.0))
    training = step(training)
    redis.flushall()
    training = step(training)
    assert claimed(redis).train.id == training.wire_id
    training_queue.append(redis, claimed_again(redis, training), TrainingProgress(6, 40, 0.9))
    assert step(training).losses == [[5, 1.0], [6, 0.9]]


def claimed_again(redis: Redis, training: Training) -> TrainingClaim:
    """The claim of a server that took the job over."""
    redis.zadd("training:queue", {training.wire_id: 0})
    return claimed(redis)


def test_without_a_server_the_owner_is_told_what_to_start(plan: Plan, step: Step, redis: Redis) -> None:
    training = step(step(plan()))
    assert "No training server is running" in training.note
    training_queue.beat(redis, "one", 30)
    assert step(training).note == ""


@pytest.mark.parametrize(
    ("end", "state"),
    [(Trained("out", 44, 1.5), "examining"), (TrainingFailed("No."), "failed"), (TrainingCancelled(3), "cancelled")],
)
def test_an_end_that_is_read_together_with_the_last_steps_counts(
    plan: Plan, step: Step, redis: Redis, end: TrainingEnd, state: str
) -> None:
    training = step(plan())
    claim = claimed(redis)
    training_queue.append(redis, claim, TrainingProgress(3, 40, 1.0, 60.0))
    training_queue.finish(redis, claim, end)
    training = step(training)
    assert (training.state, training.losses, training.seconds_left) == (state, [[3, 1.0]], None)


def test_a_failure_is_recorded_with_its_sentence_and_the_working_files_go(plan: Plan, step: Step, redis: Redis) -> None:
    training = step(plan())
    training_queue.finish(redis, claimed(redis), TrainingFailed("The loss of step 3 is nan; lower the learning rate."))
    training = step(training)
    assert (training.state, training.reason) == ("failed", "The loss of step 3 is nan; lower the learning rate.")
    assert training.ended is not None
    assert not training.folder.exists()


def test_cancelling_reaches_a_server_at_work(plan: Plan, step: Step, redis: Redis) -> None:
    training = step(plan())
    claim = claimed(redis)
    training.cancel()
    training = step(training)
    assert training_queue.renew(redis, claim, 60) == "cancelled"
    training_queue.finish(redis, claim, TrainingCancelled(7))
    training = step(training)
    assert (training.state, training.reason) == ("cancelled", "It was cancelled after 7 of 40 steps.")


@pytest.mark.parametrize("is_queued", [True, False])
def test_a_training_that_waits_is_cancelled_at_once(plan: Plan, step: Step, redis: Redis, is_queued: bool) -> None:
    training = step(plan()) if is_queued else plan()
    training.cancel()
    assert step(training).reason == "It was cancelled before it began."
    assert training_queue.claim(redis, 60) is None


def test_trained_files_are_examined_next(plan: Plan, step: Step, redis: Redis) -> None:
    training = step(plan())
    training_queue.finish(redis, claimed(redis), Trained(str(training.folder / "out"), 44, 1.5))
    training = step(training)
    assert (training.state, training.rows, training.minutes) == ("examining", 44, 1.5)


def test_an_outcome_is_recorded_once(plan: Plan, step: Step) -> None:
    training = plan()
    training.end(Training.State.CANCELLED, "Enough.")
    assert not training.cancel()
    training.end(Training.State.FAILED, "Too late.")
    assert step(training).reason == "Enough."


def test_rows_that_are_gone_end_the_training(plan: Plan, step: Step) -> None:
    training = plan()
    DataSet.objects.get().path.unlink()
    rows._parts.cache_clear()
    assert "The rows of Moods are gone" in step(training).reason


@pytest.mark.django_db
def test_one_job_at_a_time_has_a_training_until_its_lease_ends(plan: Plan) -> None:
    training = plan()
    first = Training.objects.claim(training.pk)
    assert first is not None
    assert Training.objects.claim(training.pk) is None
    Training.objects.update(claimed_until=timezone.now() - timedelta(seconds=1))
    second = Training.objects.claim(training.pk)
    assert second is not None
    first.release()
    assert Training.objects.claim(training.pk) is None
    second.release()
    assert Training.objects.claim(training.pk) is not None
    assert timedelta(minutes=2) < LEASE


def test_a_step_while_redis_is_away_changes_nothing_and_lets_the_training_go(plan: Plan, settings) -> None:
    settings.REDIS_URL = "unix:///nowhere/socket"
    training = plan()
    with pytest.raises(RedisIsAway):
        follow_training(str(training.pk))
    training.refresh_from_db()
    assert training.state == "waiting"
    assert training.claimed_until <= timezone.now()


def test_every_state_has_a_step(plan: Plan) -> None:
    ended = plan(state="done")
    take_step(ended)
    assert Training.objects.claim(ended.pk) is None


def test_a_step_that_breaks_off_again_and_again_ends_the_training_with_what_was_wrong(
    plan: Plan, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(training: Training, redis: Redis) -> None:
        raise TypeError("unhashable type: 'list'")

    training = plan()
    monkeypatch.setattr("loraland.training.tasks.follow", stumble)
    for _ in range(MOST_BREAKS):
        with pytest.raises(TypeError):
            follow_training(str(training.pk))
        assert Training.objects.get().is_active
    follow_training(str(training.pk))
    ended = Training.objects.get()
    assert ended.state == ended.State.FAILED
    assert "broke off 10 times" in ended.reason
    assert "unhashable type: 'list'" in ended.reason


def test_a_step_that_kills_its_process_every_time_ends_the_training(plan: Plan) -> None:
    training = plan()
    for _ in range(MOST_BREAKS):
        assert Training.objects.claim(training.pk) is not None  # and here the process dies
        Training.objects.update(claimed_until=timezone.now() - LEASE)
    assert Training.objects.claim(training.pk) is None
    assert Training.objects.get().state == Training.State.FAILED


def test_steps_that_come_to_their_end_or_find_a_store_away_do_not_count(
    plan: Plan, step: Step, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = plan()
    for _ in range(MOST_BREAKS + 1):
        step(training)
    with monkeypatch.context() as patch:
        patch.setattr("loraland.training.tasks.follow", lambda *_: (_ for _ in ()).throw(RedisIsAway("away")))
        for _ in range(MOST_BREAKS + 1):
            with pytest.raises(RedisIsAway):
                follow_training(str(training.pk))
    assert step(training).is_active


def test_a_starved_training_says_that_the_processor_is_busy_until_it_gets_room(
    plan: Plan, step: Step, redis: Redis
) -> None:
    training = step(plan())
    claim = claimed(redis)
    training_queue.append(redis, claim, TrainingProgress(0, 40))
    assert step(training).note == ""
    training_queue.record_share(redis, claim, 0.03)
    assert step(training).note == "The processor is busy; it goes on when there is room."
    training_queue.record_share(redis, claim, 0.97)
    assert step(training).note == ""


def test_a_training_that_is_raised_is_told_to_its_server_and_stays_so(plan: Plan, step: Step, redis: Redis) -> None:
    training = step(plan())
    claim = claimed(redis)
    assert not claim.is_urgent
    training.hurry()
    step(training)
    assert training_queue.renew(redis, claim, 60) == "hurried"
    training_queue.release(redis, claim, crashed=False)
    again = claimed(redis)
    assert (again.is_urgent, again.attempts) == (True, 1)
