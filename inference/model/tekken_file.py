"""A base's ``tekken.json``, as Mistral publishes its newer tokenizers, as the tokenizer.json of the same tokenizer."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from inference.model.byte_letters import letters
from inference.model.merges import merges_of
from inference.model.tokenizer_content import BYTE_LETTERS, added_token, opening, split_at

SPECIAL_NAMES: Final = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"),
    *("[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
"""The first control tokens of files that do not name theirs; the others are fillers."""
_DEFAULT_NUM_SPECIAL: Final = 1000


class TekkenRefused(ValueError):
    """A tekken.json that is not read here; the text is the end of a sentence about it."""


def read_tekken(saved: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The content of a tokenizer.json for the parsed file `saved`, and its special tokens by name.

    Control tokens come first, then the bytes and what they merge into, by rank. Raises `TekkenRefused`.
    """
    try:
        config = saved["config"]
        num_special = config.get("default_num_special_tokens", _DEFAULT_NUM_SPECIAL)
        size, pattern = config["default_vocab_size"], config["pattern"]
        ranked = sorted(saved["vocab"], key=lambda entry: entry["rank"])[: size - num_special]
        plain = [letters(base64.b64decode(entry["token_bytes"])) for entry in ranked]
        special = _special(saved, num_special)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TekkenRefused("is damaged, or another format; save the tokenizer as tokenizer.json") from error
    if [entry["rank"] for entry in ranked] != list(range(len(ranked))):
        raise TekkenRefused("has gaps in its ranks; download it again, or save the tokenizer as tokenizer.json")
    vocab = {token: number for number, token in enumerate([*special, *plain])}
    content = {
        "version": "1.0",
        "added_tokens": [added_token(number, name, is_special=True) for number, name in enumerate(special)],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split_at(pattern), BYTE_LETTERS],
        },
        "post_processor": opening("<s>", vocab),
        "decoder": BYTE_LETTERS,
        "model": {"type": "BPE", "ignore_merges": True, "vocab": vocab, "merges": merges_of(plain)},
    }
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return content, {key: name for key, name in names.items() if name in special}


def _special(saved: Mapping[str, Any], num_special: int) -> list[str]:
    """The names of the control tokens in the order of their ids, with fillers where the file names none."""
    named = saved.get("special_tokens") or [
        {"rank": rank, "token_str": name} for rank, name in enumerate(SPECIAL_NAMES[:num_special])
    ]
    names = {entry["rank"]: entry["token_str"] for entry in named}
    return [names.get(number, f"<SPECIAL_{number}>") for number in range(num_special)]
