"""What invokes an adapter that is not active from the start: an activated LoRA (aLoRA; Greenewald et al., 2025, arXiv
2504.12397). No torch.

The tokens before its invocation are the base's, to the bit, so that whoever judges one conversation by many such
adapters has it read once. Places count from the beginning of the whole prompt: how it is cut into tiles, or found in a
cache, changes none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from inference.adapters.config_file import show
from inference.wire.protocol import UNINVOKED

KEY: Final = "alora_invocation_tokens"
"""In adapter_config.json, and so in the digest."""
MOST: Final = 256
"""Tokens of an invocation; those that are published have some ten."""


def read_invocation(config: Mapping[str, Any]) -> tuple[tuple[int, ...], list[str]]:
    """The tokens that invoke the adapter, none where it is a plain one, and what is wrong with them, in sentences.

    An empty list asks for nothing, in PEFT too.
    """
    given = config.get(KEY) or []
    if not isinstance(given, list) or not all(type(id) is int and 0 <= id < 2**31 for id in given):
        return (), [f"{KEY} is {show(given)}; it must be a list of the ids of the tokens that invoke the adapter."]
    if len(given) > MOST:
        return (), [f"{KEY} has {len(given)} tokens; at most {MOST} may invoke an adapter."]
    return tuple(given), []


def place_of(invocation: tuple[int, ...], token_ids: Sequence[int]) -> int:
    """Where the last occurrence of `invocation` in `token_ids` begins, from which on the adapter answers; or
    `UNINVOKED`."""
    size = len(invocation)
    assert size, "an invocation has tokens"
    starts = range(len(token_ids) - size, -1, -1)
    return next((start for start in starts if tuple(token_ids[start : start + size]) == invocation), UNINVOKED)
