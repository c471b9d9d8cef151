"""The training loop: AdamW under a warmed-up cosine, with the loss on the answers alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from inference.tasks.recipe import Schedule
from inference.training.examples import IGNORED, Batch

CLIP_NORM = 1.0


def train(
    model: Any,
    batches: Iterable[Batch],
    schedule: Schedule,
    device: torch.device,
    on_step: Callable[[float], None] = lambda loss: None,
) -> list[float]:
    """Train the adapter in the PEFT `model` and return the loss of every step, in nats a token.

    `on_step` is told each loss. Raises FloatingPointError when a loss is not finite.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, schedule))
    model.train()
    losses: list[float] = []
    for batch in batches:
        loss = answer_loss(model.get_base_model(), batch.to(device))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        scheduler.step()
        losses.append(_finite(loss.item(), len(losses)))
        on_step(losses[-1])
    model.eval()
    return losses


def answer_loss(model: Any, batch: Batch) -> Tensor:
    """Mean cross-entropy of the answers' tokens in nats, a scalar in fp32.

    Logits are computed for those positions only: the vocabulary is a fifth of a small model's arithmetic.
    """
    hidden = model.model(input_ids=batch.token_ids, attention_mask=batch.mask, use_cache=False).last_hidden_state
    predicted = batch.labels[:, 1:]
    chosen = predicted != IGNORED
    logits = model.lm_head(hidden[:, :-1][chosen])
    return functional.cross_entropy(logits.float(), predicted[chosen])


def _rate(step: int, schedule: Schedule) -> float:
    """The share of the peak learning rate at `step`: a line up, then half a cosine down to 0."""
    warmup = max(1, round(schedule.warmup * schedule.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, schedule.steps - warmup)))


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss of step {step} is {loss}; lower the learning rate of the recipe")
    return loss
