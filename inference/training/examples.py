"""From rows to tensors: a filled template and its target as token ids, in batches of like length."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from inference.adapters.invocation import MOST, place_of
from inference.tasks.data import Row
from inference.tasks.recipe import Recipe
from inference.tasks.template import fill
from inference.wire.protocol import UNINVOKED

IGNORED: Final = -100
"""The label of a token that the loss leaves out."""
MULTIPLE: Final = 8
"""Batches are padded to a multiple of this many columns: a CPU compiles its matrix products anew for each new shape."""
POOL: Final = 16
"""Batches are cut from pools of this many, sorted by length, so that little is padding."""


@dataclass(frozen=True)
class Encoded:
    """One row as token ids; the answer starts at `start` and includes the end token. An adapter that is invoked acts
    from `invoked_at` on, any other from the start. Of a blend the `parts` answer it, by their numbers, or all where
    none are named."""

    token_ids: tuple[int, ...]
    start: int
    invoked_at: int = 0
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right. All tensors are [rows, length] int64; `labels` is IGNORED outside the answers.

    `invoked_at` is where the adapter begins to act in each row; empty where it does from the start in all. `parts` are
    those of each row (`Encoded`).
    """

    token_ids: Tensor
    mask: Tensor
    labels: Tensor
    invoked_at: tuple[int, ...] = ()
    parts: tuple[tuple[int, ...], ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        tensors = (self.token_ids.to(device), self.mask.to(device), self.labels.to(device))
        return Batch(*tensors, self.invoked_at, self.parts)


def encode(row: Row, recipe: Recipe, tokenizer: Any, invocation: tuple[int, ...] = ()) -> Encoded:
    """Token ids of the filled template, then of the target, then the end token.

    The two are tokenized apart, because a server tokenizes the template alone and generates from there. Raises
    ValueError for a prompt without the tokens of the `invocation`.
    """
    prompt = prompt_ids(fill(recipe.template, row.inputs), tokenizer, _has_controls(row.inputs.values(), tokenizer))
    target = tokenizer(row.target, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    invoked_at = place_of(invocation, prompt) if invocation else 0
    if invoked_at == UNINVOKED:
        raise ValueError(
            f"{recipe.task}: the prompt of a row does not hold the tokens of {recipe.lora.invocation!r}, of which the "
            "first or the last are joined with what stands beside them there, or a field spells a control token; begin "
            "and end the invocation with a control token or a line break, and leave such rows out"
        )
    return Encoded((*prompt, *target, tokenizer.eos_token_id), len(prompt), invoked_at)


def invocation_of(recipe: Recipe, tokenizer: Any) -> tuple[int, ...]:
    """The tokens of the recipe's invocation, none where it has none. Raises ValueError for too many."""
    if recipe.lora.invocation is None:
        return ()
    ids = tuple(tokenizer(recipe.lora.invocation, add_special_tokens=False)["input_ids"])
    if len(ids) > MOST:
        raise ValueError(f"{recipe.task}: the invocation has {len(ids)} tokens; at most {MOST} may invoke an adapter")
    return ids


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

    Raises ValueError when none is left, and where one's prompt does not invoke the adapter.
    """
    invocation = invocation_of(recipe, tokenizer)
    encoded = [encode(row, recipe, tokenizer, invocation) for row in rows]
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
    places = tuple(row.invoked_at for row in rows)
    return Batch(token_ids, mask, labels, places if any(places) else (), tuple(row.parts for row in rows))


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
