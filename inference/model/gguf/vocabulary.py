"""What a GGUF file says of its tokens, held to what it can mean: arrays as long as the vocabulary, ids within it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from inference.model.gguf.header import GgufError, LongArray
from inference.reading import shown

PREFIX: Final = "tokenizer.ggml."
ENDS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")
_UNUSED: Final = "padding_token_id"
IDS: Final = ("bos_token_id", "unknown_token_id", _UNUSED, *ENDS)
_KINDS: Final = {"add_bos_token": bool, "add_space_prefix": bool, "remove_extra_whitespaces": bool, "pre": str}
_TEMPLATES: Final = ("tokenizer.chat_template", "tokenizer.chat_template.tool_use")


def own_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a file with those of its tokenizer by their own names."""
    return {key.removeprefix(PREFIX): value for key, value in fields.items()}


def special_ids(fields: Mapping[str, Any], rows: int | None = None) -> dict[str, int]:
    """The ids of tokens that have a part of their own, of those that the file names; its table has `rows`.

    Raises `GgufError` for one that is none of its tokens. The one that fills texts up is left out then: none does here.
    """
    own = own_fields(fields)
    tokens = own.get("tokens")
    count = tokens.length if isinstance(tokens, LongArray) else len(tokens) if isinstance(tokens, list) else None
    if count is not None and rows is not None and count > rows:
        raise GgufError(f"it names {count} tokens, and its table has {rows} rows; fetch it again")
    most = min(number for number in (count, rows, 2**31) if number is not None)
    found = {}
    for key in IDS:
        value = own.get(key)
        if type(value) is int and 0 <= value < most:
            found[key] = value
        elif value is not None and key != _UNUSED:
            raise GgufError(f"its {key} is {shown(value)}; the tokens are numbered from 0 to {most - 1}")
    return found


def check_vocabulary(own: Mapping[str, Any]) -> None:
    """Raises `GgufError` for fields of a tokenizer that do not fit each other. All arrays are there in full."""
    tokens: Any = own.get("tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise GgufError("the file holds no tokenizer; put the model's tokenizer.json into its directory")
    known = set(tokens)
    if len(known) < len(tokens):
        twice = next(token for token, count in Counter(tokens).items() if count > 1)
        raise GgufError(f"its token {shown(twice)} is there twice; fetch it again")
    _check_array(own, "token_type", len(tokens), "whole numbers", lambda value: type(value) is int)
    _check_array(own, "scores", len(tokens), "numbers", _is_number)
    _check_merges(own.get("merges"), known)
    for key, kind in (*_KINDS.items(), *dict.fromkeys(_TEMPLATES, str).items()):
        if own.get(key) is not None and not isinstance(own[key], kind):
            raise GgufError(f"its {key} is {shown(own[key])}; it is a {'text' if kind is str else 'truth value'}")


def _check_array(own: Mapping[str, Any], key: str, count: int, what: str, is_one: Callable[[Any], bool]) -> None:
    values = own.get(key)
    if values is None:
        return
    if not isinstance(values, list) or len(values) != count or not all(map(is_one, values)):
        has = f"{len(values)} values" if isinstance(values, list) else shown(values)
        raise GgufError(f"its {key} has {has}; it has {count} {what}, one for each token, so fetch it again")


def _check_merges(merges: Any, tokens: set[str]) -> None:
    if merges is None:
        return
    if not isinstance(merges, list):
        raise GgufError(f"its merges are {shown(merges)}; they are pairs of tokens, so fetch it again")
    for merge in merges:
        first, space, second = merge.partition(" ") if isinstance(merge, str) else ("", "", "")
        if not space or not {first, second, first + second} <= tokens:
            raise GgufError(f"its merge {shown(merge)} is no pair of tokens that makes another; fetch it again")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
