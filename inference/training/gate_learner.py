"""How a gate learns: the optimizers of LoRA-Flow and RAMoLE, parts that are dropped, and the loss of rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from inference.tasks.metrics import Tally
from inference.tasks.recipe import Schedule
from inference.training.adapter import OfPairs
from inference.training.decoder import TrainingDecoder
from inference.training.examples import Batch, Encoded, collate
from inference.training.gated import FlowGate, Gated, RamoleGate, surviving
from inference.training.loop import Learner
from inference.training.mixed import lay_end_to_end
from inference.training.run import Cancelled

ROWS_AT_ONCE = 16


class GateLearner(Learner[Gated]):
    """A gate, the rows it learns from and where it stands. Of the parts of each row some are dropped by `dropout`."""

    def __init__(
        self,
        task: str,
        gate: Gated,
        rows: Sequence[Encoded],
        schedule: Schedule,
        pad_id: int,
        dropout: float = 0.0,
    ) -> None:
        self._dropout = dropout
        super().__init__(task, gate, rows, schedule, pad_id, optimizer_of(gate))

    def _all_batches(self) -> Iterator[Batch]:
        """Drawn anew from the first on, so that one which goes on drops what it would have dropped."""
        chance, everyone = random.Random(self.schedule.seed + 2), tuple(range(self.adapter.num_parts))
        for batch in super()._all_batches():
            if not self._dropout:
                yield batch
                continue
            kept = (surviving(parts or everyone, chance, self._dropout) for parts in batch.parts)
            yield replace(batch, parts=tuple(kept))


def optimizer_of(gate: Gated) -> torch.optim.Optimizer | None:
    """LoRA-Flow's AdamW with its settings (Wang et al., 2024), for all others the one of adapters."""
    if isinstance(gate, FlowGate):
        return torch.optim.AdamW(gate.parameters, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-5)
    assert isinstance(gate, RamoleGate), "nothing of any other gate learns"
    return None


@torch.no_grad()
def row_losses(
    decoder: TrainingDecoder,
    adapter: OfPairs,
    rows: Sequence[Encoded],
    pad_id: int,
    is_wanted: Callable[[], bool] = lambda: True,
) -> list[Tally]:
    """Of each row the loss of its answer, negative, of so many tokens: a score is the mean loss a token, negative.

    Raises `Cancelled` once it is no longer wanted.
    """
    order = sorted(range(len(rows)), key=lambda place: len(rows[place].token_ids))
    found: dict[int, Tally] = {}
    for start in range(0, len(order), ROWS_AT_ONCE):
        if not is_wanted():
            raise Cancelled
        places = order[start : start + ROWS_AT_ONCE]
        batch = lay_end_to_end([collate([rows[place] for place in places], pad_id)]).to(decoder.weights.device)
        losses = decoder.token_losses(batch, [adapter])
        owners = batch.answers // batch.rectangles[0].length
        sums = losses.new_zeros(len(places)).index_add(0, owners, losses).tolist()
        counts = torch.bincount(owners, minlength=len(places)).tolist()
        found |= {place: Tally(-loss, count) for place, loss, count in zip(places, sums, counts, strict=True)}
    return [found[place] for place in range(len(rows))]
