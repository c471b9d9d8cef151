"""Greedy answers to many prompts at once, through transformers' `generate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from inference.training.examples import prompt_ids


@torch.inference_mode()
def answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_tokens: int,
    rows: int = 50,
    on_rows: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """The greedy answer to each of `prompts`, in their order, at most `max_tokens` long.

    Prompts of like length share a batch of up to `rows`; `on_rows` is told the size of each finished batch.
    """
    ids = [prompt_ids(prompt, tokenizer) for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    found: dict[int, str] = {}
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        texts = _generate(model, tokenizer, [ids[index] for index in chosen], max_tokens)
        found.update(zip(chosen, texts, strict=True))
        on_rows(len(chosen))
    return [found[index] for index in range(len(ids))]


def _generate(model: Any, tokenizer: Any, ids: list[list[int]], max_tokens: int) -> list[str]:
    """One batch, padded on the left so that all answers start at the same column."""
    length = max(len(row) for row in ids)
    pad = tokenizer.eos_token_id
    output = model.generate(
        input_ids=torch.tensor([[pad] * (length - len(row)) + row for row in ids], device=model.device),
        attention_mask=torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids], device=model.device),
        max_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
    )
    texts: list[str] = tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)
    return texts
