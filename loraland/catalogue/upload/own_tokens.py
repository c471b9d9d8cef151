"""Tokens of the tokenizer beside an adapter that the base's has not. Those of which the base's table has a row become
the adapter's own, in its config; others are told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from inference.model.added_tokens import KEY, MAX_CHARS, AddedToken, read_added
from inference.model.tokenizer_files import TokenizerError, read_tokenizer
from loraland.base_files import vocabulary_size

TOKENIZER: Final = "tokenizer.json"
SETTINGS: Final = "tokenizer_config.json"
ADDED: Final = "added_tokens.json"
MOST_NAMED: Final = 10
FLAGS: Final = ("lstrip", "rstrip", "single_word")
"""By which a token takes spaces beside it, or is none within a word. Here it is where its text is."""
Tokens = tuple[AddedToken, ...]


def own_tokens(files: Mapping[str, bytes], folder: Path) -> tuple[Tokens, Tokens, Tokens]:
    """Those that the base in `folder` has rows for, in the order of their ids, those of them that have `FLAGS`, and
    those that it has no rows for; none of a tokenizer of other words than the base's."""
    words, known = _vocabulary(folder)
    tokenizer = object_in(files, TOKENIZER)
    found = {token.content: token for token in _tokens(files, tokenizer)}
    if not found or not known or not _is_of(tokenizer, words):
        return (), (), ()
    strange = sorted((token for token in found.values() if token.content not in known), key=lambda token: token.id)
    height = vocabulary_size(folder)
    within = tuple({token.id: token for token in strange if token.id < height}.values())
    if read_added({KEY: [token.entry() for token in within]})[1]:
        within = ()  # more than any tokenizer has, which no config may carry
    flagged = {_text(entry) for _, entry in _entries(files, tokenizer) if any(map(entry.get, FLAGS))}
    beyond = tuple(token for token in strange if token not in within)
    return within, tuple(token for token in within if token.content in flagged), beyond


def named(tokens: tuple[AddedToken, ...]) -> str:
    """The first of `tokens` in words, and how many more there are."""
    more = f" and {len(tokens) - MOST_NAMED} more" if len(tokens) > MOST_NAMED else ""
    return ", ".join(repr(token.content[:60]) for token in tokens[:MOST_NAMED]) + more


def _tokens(files: Mapping[str, bytes], tokenizer: Mapping[str, Any]) -> Iterator[AddedToken]:
    """All that were added to the `tokenizer` in `files`, whichever of them says so; the last wins."""
    ends = _text(object_in(files, SETTINGS).get("eos_token"))
    for content, id in object_in(files, ADDED).items():
        yield from _token(id, content, is_special=True, ends=ends)
    for id, entry in _entries(files, tokenizer):
        yield from _token(id, entry.get("content"), is_special=entry.get("special") is not False, ends=ends)


def _entries(files: Mapping[str, bytes], tokenizer: Mapping[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """What the settings in `files` and the `tokenizer` say of each added token, beside its id."""
    decoder, added = object_in(files, SETTINGS).get("added_tokens_decoder"), tokenizer.get("added_tokens")
    for id, entry in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(entry, dict):
            yield int(id) if id.isdigit() and len(id) < 10 else None, entry
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, dict):
            yield entry.get("id"), entry


def _token(id: Any, content: Any, *, is_special: bool, ends: str) -> Iterator[AddedToken]:
    is_one = type(id) is int and 0 <= id < 2**31 and isinstance(content, str) and 0 < len(content.strip()) <= MAX_CHARS
    if is_one and content.isprintable():
        yield AddedToken(id, content, (is_special or content == ends) and len(content) > 1, content == ends)


def _text(token: Any) -> str:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def _is_of(tokenizer: Mapping[str, Any], words: Any) -> bool:
    """Whether `tokenizer` has the base's `words`; it has, as far as nobody tells."""
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    return vocabulary is None or vocabulary == words


def _vocabulary(folder: Path) -> tuple[Any, set[str]]:
    """The words of the base in `folder` as its tokenizer.json has them, and all its tokens; empty where nobody can
    read them."""
    try:
        found, _ = read_tokenizer(folder)
    except (TokenizerError, ValueError):
        return None, set()
    model, added = found.get("model"), found.get("added_tokens")
    entries = model.get("vocab") if isinstance(model, dict) else None
    words = (entry if isinstance(entry, str) else entry[0] for entry in entries or ())
    return entries, {*words, *(entry["content"] for entry in added or ())}


def object_in(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """The object in the file `name` of `files`; an empty one where there is none, or nobody can read it."""
    try:
        found = json.loads(files.get(name, b"{}").decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
