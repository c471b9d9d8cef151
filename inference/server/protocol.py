"""What the site and the training server say to each other, as frozen dataclasses; see `inference.server.queue`.

Both houses import this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeGuard

from inference.wire.codec import Codec


@dataclass(frozen=True)
class Train:
    """Train one adapter, or the gate of a blend.

    `recipe` is the text of a recipe (TOML, as in `inference/tasks/recipes`). `data` holds train.jsonl and test.jsonl,
    `out` receives adapter_config.json and adapter_model.safetensors and is this job's alone; both are folders below
    VAR_DIR, written relative to it or absolute. `base` is what BASE_MODEL may be.

    With a `gate`, the text of a gate's recipe whose parts are digests of stored adapters, `out` receives
    gate.safetensors, and a card.toml with its loss on the test rows; `recipe` says then what the rows are.
    """

    id: str
    recipe: str
    data: str
    out: str
    base: str
    gate: str = ""


@dataclass(frozen=True)
class TrainingProgress:
    """`step` of `steps` is done, with this `loss` in nats a token; `step` 0 says that the training begins.

    A training that goes on from its checkpoint tells some steps once more, with the same losses: count by `step`.
    """

    step: int
    steps: int
    loss: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class Trained:
    """What was trained stands in `folder` (absolute), learnt from `rows` rows; it took `minutes` over all attempts."""

    folder: str
    rows: int
    minutes: float


@dataclass(frozen=True)
class TrainingFailed:
    """There will be no adapter; `reason` says in a sentence what was wrong and what would be right."""

    reason: str


@dataclass(frozen=True)
class TrainingCancelled:
    """Its owner ended it after `step` steps."""

    step: int


TrainingEnd = Trained | TrainingFailed | TrainingCancelled
TrainingEvent = TrainingProgress | TrainingEnd

_CODEC: Final = Codec[Train | TrainingEvent](
    Train, TrainingProgress, Trained, TrainingFailed, TrainingCancelled, allow_nan=False
)
encode, decode = _CODEC.encode, _CODEC.decode


def is_end(event: TrainingEvent) -> TypeGuard[TrainingEnd]:
    """Whether `event` is the last of its training."""
    return not isinstance(event, TrainingProgress)
