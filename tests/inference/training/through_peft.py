"""The slow truth of trained adapters: the base as transformers knows it, and greedy answers through `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from inference.training.examples import prompt_ids

ROWS = 50


def load_base(name: str | Path, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any]:
    """The frozen base model and its tokenizer, from a directory."""
    model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    model = model.to(device).eval()
    model.requires_grad_(False)
    return model, AutoTokenizer.from_pretrained(name)


@torch.inference_mode()
def answers(model: Any, tokenizer: Any, prompts: Sequence[str], max_tokens: int) -> list[str]:
    """The greedy answer to each of `prompts`, in their order; prompts of like length share a batch."""
    ids = [prompt_ids(prompt, tokenizer) for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    found: dict[int, str] = {}
    for start in range(0, len(order), ROWS):
        chosen = order[start : start + ROWS]
        found.update(
            zip(chosen, _generate(model, tokenizer, [ids[index] for index in chosen], max_tokens), strict=True)
        )
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
        eos_token_id=pad,
    )
    texts: list[str] = tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)
    return texts
