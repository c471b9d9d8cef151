"""Greedy answers to many prompts at once, through transformers' `generate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria

from inference.training.examples import prompt_ids


@torch.inference_mode()
def answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_tokens: int,
    rows: int = 50,
    on_rows: Callable[[int], None] = lambda count: None,
    is_whole: Callable[[str], bool] | None = None,
) -> list[str]:
    """The greedy answer to each of `prompts`, in their order, at most `max_tokens` long.

    Prompts of like length share a batch of up to `rows`; `on_rows` is told the size of each finished batch.
    `is_whole` ends an answer early: it is asked about the text so far, which may go on after the answer.
    """
    ids = [prompt_ids(prompt, tokenizer) for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    found: dict[int, str] = {}
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        texts = _generate(model, tokenizer, [ids[index] for index in chosen], max_tokens, is_whole)
        found.update(zip(chosen, texts, strict=True))
        on_rows(len(chosen))
    return [found[index] for index in range(len(ids))]


class _Whole(StoppingCriteria):
    """Ends each row of a batch when its text from column `start` on is whole."""

    def __init__(self, tokenizer: Any, start: int, is_whole: Callable[[str], bool]) -> None:
        self._tokenizer, self._start, self._is_whole = tokenizer, start, is_whole

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        texts = self._tokenizer.batch_decode(input_ids[:, self._start :], skip_special_tokens=True)
        return torch.tensor([self._is_whole(text) for text in texts], device=input_ids.device)


def _generate(
    model: Any, tokenizer: Any, ids: list[list[int]], max_tokens: int, is_whole: Callable[[str], bool] | None
) -> list[str]:
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
        stopping_criteria=[_Whole(tokenizer, length, is_whole)] if is_whole else [],
    )
    texts: list[str] = tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)
    return texts
