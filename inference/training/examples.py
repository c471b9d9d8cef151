"""From rows to tensors: a filled template and its target as token ids, in batches of like length."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from inference.tasks.data import Row
from inference.tasks.recipe import Recipe
from inference.tasks.template import fill

IGNORED: Final = -100
"""The label of a token that the loss leaves out."""
MULTIPLE: Final = 8
"""Batches are padded to a multiple of this many columns: a CPU compiles its matrix products anew for each new shape."""
POOL: Final = 16
"""Batches are cut from pools of this many, sorted by length, so that little is padding."""


@dataclass(frozen=True)
class Encoded:
    """One row as token ids; the answer starts at `start` and includes the end token."""

    token_ids: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right. All tensors are [rows, length] int64; `labels` is IGNORED outside the answers."""

    token_ids: Tensor
    mask: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return Batch(self.token_ids.to(device), self.mask.to(device), self.labels.to(device))


def encode(row: Row, recipe: Recipe, tokenizer: Any) -> Encoded:
    """Token ids of the filled template, then of the target, then the end token.

    The two are tokenized apart, because a server tokenizes the template alone and generates from there.
    """
    prompt = prompt_ids(fill(recipe.template, row.inputs), tokenizer, _has_controls(row.inputs.values(), tokenizer))
    target = tokenizer(row.target, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return Encoded((*prompt, *target, tokenizer.eos_token_id), len(prompt))


def prompt_ids(text: str, tokenizer: Any, are_text: bool = False) -> list[int]:
    """The token ids of a prompt as the server reads it: begun by the base's own first token, where it has one.

    `are_text`: what spells control tokens in it is text, since a row brought it and not the template.
    """
    ids: list[int] = tokenizer(text, split_special_tokens=are_text)["input_ids"]
    return ids


def _has_controls(values: Iterable[str], tokenizer: Any) -> bool:
    """Whether a row spells the name of a control token: to a server, and so to the learner, that is text."""
    return any(control in value for value in values for control in tokenizer.all_special_tokens)


def encode_all(rows: Sequence[Row], recipe: Recipe, tokenizer: Any) -> list[Encoded]:
    """Encode `rows`, leaving out those of more than the recipe's `max_length` tokens.

    Raises ValueError when none is left.
    """
    encoded = [encode(row, recipe, tokenizer) for row in rows]
    fitting = [example for example in encoded if len(example.token_ids) <= recipe.schedule.max_length]
    if not fitting:
        raise ValueError(f"no row of {recipe.task} fits max_length = {recipe.schedule.max_length} tokens; raise it")
    return fitting


def collate(rows: Sequence[Encoded], pad_id: int) -> Batch:
    """Pad `rows` to the longest of them, rounded up to `MULTIPLE`."""
    length = -(-max(len(row.token_ids) for row in rows) // MULTIPLE) * MULTIPLE
    token_ids = torch.full((len(rows), length), pad_id)
    labels = torch.full((len(rows), length), IGNORED)
    mask = torch.zeros((len(rows), length), dtype=torch.int64)
    for index, row in enumerate(rows):
        ids = torch.tensor(row.token_ids)
        token_ids[index, : len(ids)] = ids
        labels[index, row.start : len(ids)] = ids[row.start :]
        mask[index, : len(ids)] = 1
    return Batch(token_ids, mask, labels)


def batches(rows: Sequence[Encoded], size: int, steps: int, seed: int, pad_id: int) -> Iterator[Batch]:
    """`steps` batches of `size` rows, going over the rows again and again in a seeded order."""
    order = _endless(rows, random.Random(seed))
    shuffle = random.Random(seed + 1)
    while steps > 0:
        pool = sorted((next(order) for _ in range(size * min(POOL, steps))), key=lambda row: len(row.token_ids))
        groups = [pool[start : start + size] for start in range(0, len(pool), size)]
        shuffle.shuffle(groups)
        yield from (collate(group, pad_id) for group in groups)
        steps -= len(groups)


def _endless(rows: Sequence[Encoded], generator: random.Random) -> Iterator[Encoded]:
    while True:
        yield from generator.sample(rows, len(rows))
