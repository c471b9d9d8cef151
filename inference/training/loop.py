"""The training loop: one pass over the base for all adapters that still learn, then a step of each adapter's AdamW."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import torch

from inference.tasks.recipe import Schedule
from inference.training.adapter import Learned
from inference.training.decoder import TrainingDecoder
from inference.training.examples import Batch, Encoded, batches
from inference.training.mixed import lay_end_to_end

CLIP_NORM = 1.0


@dataclass(frozen=True)
class Step:
    """A step that was made: the `number`-th of `steps`, with its loss in nats a token before it."""

    task: str
    number: int
    steps: int
    loss: float


SomeAdapter = TypeVar("SomeAdapter", bound=Learned)


class Learner(Generic[SomeAdapter]):
    """One adapter, the rows it learns from and where it stands. Without an `optimizer` it learns by AdamW."""

    def __init__(
        self,
        task: str,
        adapter: SomeAdapter,
        rows: Sequence[Encoded],
        schedule: Schedule,
        pad_id: int,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self.task, self.adapter, self.schedule = task, adapter, schedule
        self.steps_done, self.seconds = 0, 0.0
        self._optimizer = optimizer or torch.optim.AdamW(adapter.parameters, weight_decay=0.0)
        self._rows, self._pad_id = rows, pad_id
        self._batches = self._all_batches()

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    @property
    def is_done(self) -> bool:
        return self.steps_done >= self.schedule.steps

    def next_batch(self) -> Batch:
        """What the next step learns from."""
        return next(self._batches)

    def learn(self, loss: float, seconds: float) -> Step:
        """Step along the gradients of a pass that ended in `loss` and of which `seconds` were this adapter's share.

        Raises FloatingPointError for a loss that is not finite.
        """
        if not math.isfinite(loss):
            where = f"the loss of {self.task} in step {self.steps_done + 1}"
            raise FloatingPointError(f"{where} is {loss}; lower the learning rate of the recipe")
        for group in self._optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate * _rate(self.steps_done, self.schedule)
        torch.nn.utils.clip_grad_norm_(self.adapter.parameters, CLIP_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=False)
        self.steps_done += 1
        self.seconds += seconds
        return Step(self.task, self.steps_done, self.schedule.steps, loss)

    def state(self) -> dict[str, Any]:
        """All that another learner needs to go on from here; see `resume`."""
        return {
            "values": torch.cat([parameter.detach().flatten() for parameter in self.adapter.parameters]),
            "optimizer": self._optimizer.state_dict(),
            "steps_done": self.steps_done,
            "seconds": self.seconds,
        }

    @torch.no_grad()
    def resume(self, state: dict[str, Any]) -> None:
        """Go on from `state`, with the batches that come next."""
        parameters = self.adapter.parameters
        for parameter, values in zip(
            parameters, state["values"].split([parameter.numel() for parameter in parameters]), strict=True
        ):
            parameter.copy_(values.view_as(parameter))
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps_done, self.seconds = state["steps_done"], state["seconds"]
        self._batches = islice(self._all_batches(), self.steps_done, None)

    def _all_batches(self) -> Iterator[Batch]:
        schedule = self.schedule
        return batches(self._rows, schedule.batch, schedule.steps, schedule.seed, self._pad_id)


def train(
    decoder: TrainingDecoder,
    learners: Sequence[Learner[Any]],
    on_pass: Callable[[Sequence[Step]], None] = lambda steps: None,
) -> None:
    """Train all `learners` to their ends, each as it would be trained alone; `on_pass` hears of the steps of a pass.

    Raises FloatingPointError for a loss that is not finite.
    """
    while active := [learner for learner in learners if not learner.is_done]:
        clock = _clock(decoder.weights.device)
        started = clock()
        batch = lay_end_to_end([learner.next_batch() for learner in active]).to(decoder.weights.device)
        losses = decoder.losses(batch, [learner.adapter for learner in active])
        torch.autograd.backward(losses.sum())
        told, per_row = losses.tolist(), (clock() - started) / len(batch.token_ids)
        shares = [per_row * rectangle.num_rows for rectangle in batch.rectangles]
        on_pass([learner.learn(loss, seconds) for learner, loss, seconds in zip(active, told, shares, strict=True)])


def _clock(device: torch.device) -> Callable[[], float]:
    """What times a training: the processor's time where one thread computes, so that a busy machine counts for nothing.

    The time of the wall where more than that thread works: several threads, or a device beside the processor.
    """
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.monotonic


def _rate(step: int, schedule: Schedule) -> float:
    """The share of the peak learning rate at `step`: a line up, then half a cosine down to 0."""
    warmup = max(1, round(schedule.warmup * schedule.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, schedule.steps - warmup)))
