"""The training server's part of a training: the job is put into its queue, its events are written down.

Each step can be taken again: a job that Redis has lost is queued once more under its id and goes on from its
checkpoint.
"""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from django.utils import timezone
from redis import Redis

from inference.server import queue as training_queue
from inference.server import trained
from inference.server.protocol import Train, Trained, TrainingCancelled, TrainingEvent, TrainingFailed, TrainingProgress
from inference.tasks.gate_recipe import gate_recipe_text
from inference.tasks.recipe_text import recipe_text
from loraland import bases
from loraland.catalogue import store
from loraland.catalogue.models import AdapterVersion
from loraland.training.models import Training
from loraland.training.rows import parts_of, write_parts

START: Final = "0-0"
BUSY: Final = "The processor is busy; it goes on when there is room."
LEAST_SHARE: Final = 0.5
NO_SERVER: Final = "No training server is running; `make run` starts one, or `python -m inference.training --serve`."


def follow(training: Training, redis: Redis) -> None:
    """Write down what has happened to `training` since last time; queue it where it is not known."""
    if training.is_unwanted:
        training_queue.cancel(redis, training.wire_id)
    elif training.is_urgent:
        training_queue.hurry(redis, training.wire_id)
    news = training_queue.events(redis, training.wire_id, training.cursor)
    if news:
        record(training, news)
    elif not training_queue.is_known(redis, training.wire_id):
        submit(training, redis)
    elif training.state == Training.State.WAITING:
        training.change(note="" if training_queue.servers(redis) else NO_SERVER)
    elif training.state == Training.State.TRAINING:
        training.change(note=BUSY if is_starved(training_queue.share(redis, training.wire_id)) else "")


def is_starved(share: float | None) -> bool:
    """Whether a training gets so little of a processor that it would be taken for stuck."""
    return share is not None and share < LEAST_SHARE


def submit(training: Training, redis: Redis) -> None:
    """Queue `training`, or end it where its owner no longer wants it or its rows are gone."""
    if training.is_unwanted:
        return training.end(Training.State.CANCELLED, "It was cancelled before it began.")
    if not training.of_base.is_served:
        reason = f"It was planned for {training.base}, which this site no longer serves; there is {bases.names()}."
        return training.end(Training.State.FAILED, reason)
    weighed = zip(training.gate.get("parts", ()), training.gate.get("names", ()), strict=True)
    if gone := [name for digest, name in weighed if not store.is_kept(digest)]:
        reason = f"The files of {gone[0]}, which it is to weigh, are gone; upload them again, or leave it out."
        return training.end(Training.State.FAILED, reason)
    if reason := _silenced(training):
        return training.end(Training.State.FAILED, reason)
    try:
        _hand_over_rows(training)
    except FileNotFoundError:
        return training.end(Training.State.FAILED, f"The rows of {training.data} are gone; upload them again.")
    except OSError as error:
        training.change(note=f"Its rows could not be written: {error}. It is tried again.")
        return None
    if training.change(cursor=START):
        training_queue.submit(redis, message_of(training))
    return None


def _hand_over_rows(training: Training) -> None:
    """Write them where the trainer finds them, on this host or another. Raises OSError."""
    data = training.folder / "data"
    write_parts(parts_of(training.data), training.recipe.field_names, data)
    if shared := trained.trainings(settings.ADAPTER_STORE):
        shared.give(trained.name_of(training.wire_id, "data"), data, [path.name for path in data.iterdir()])


def _silenced(training: Training) -> str:
    """Why what a gate is to weigh would not answer once it is trained; empty where it would."""
    digests, names = training.gate.get("parts", ()), training.gate.get("names", ())
    known = AdapterVersion.objects.filter(digest__in=digests).answering()
    answering = {*known.values_list("digest", flat=True)}
    silent = [name for digest, name in zip(digests, names, strict=True) if digest not in answering]
    return (
        f"{silent[0]}, which it is to weigh, does not answer now; publish it again, or leave it out." if silent else ""
    )


def message_of(training: Training) -> Train:
    """Folders are named as the trainer finds them: below its own VAR_DIR where that may be on another host."""
    is_shared = trained.trainings(settings.ADAPTER_STORE)
    folder = training.folder.relative_to(settings.VAR_DIR) if is_shared else training.folder
    return Train(
        id=training.wire_id,
        recipe=recipe_text(training.recipe),
        data=str(folder / "data"),
        out=str(folder / "out"),
        base=training.of_base.model,
        gate=gate_recipe_text(gate) if (gate := training.gate_recipe) else "",
    )


def record(training: Training, news: list[tuple[str, TrainingEvent]]) -> None:
    """Write down the events in `news`, in one step with the cursor behind the last of them."""
    values: dict[str, Any] = {"cursor": news[-1][0], "told": timezone.now()}
    steps = [event for _, event in news if isinstance(event, TrainingProgress)]
    if steps:
        values |= _progress(training, steps)
    state = Training.State
    match news[-1][1]:
        case Trained(rows=rows, minutes=minutes):
            values |= {"state": state.EXAMINING, "rows": rows, "minutes": minutes, "seconds_left": None, "note": ""}
            training.change(**values)
        case TrainingFailed(reason=reason):
            training.end(state.FAILED, reason, **values)
        case TrainingCancelled(step=step):
            after = f"after {step} of {training.steps} steps" if step else "before it began"
            training.end(state.CANCELLED, f"It was cancelled {after}.", **values)
        case TrainingProgress():
            training.change(**values, state=state.TRAINING, note="")


def _progress(training: Training, steps: list[TrainingProgress]) -> dict[str, Any]:
    """What `steps` change. One that goes on from its checkpoint tells some steps again: the later word counts."""
    losses = dict(training.losses) | {told.step: told.loss for told in steps if told.loss is not None}
    return {
        "step": steps[-1].step,
        "losses": sorted(losses.items()),
        "seconds_left": steps[-1].seconds_left,
        "started": training.started or timezone.now(),
    }
