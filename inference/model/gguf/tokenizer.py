"""The tokenizer in a GGUF file's fields, as the tokenizer.json and the settings that a model directory has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from inference.model.gguf.header import GgufError
from inference.model.gguf.vocabulary import ENDS, check_vocabulary, own_fields, special_ids
from inference.model.sentencepiece_file import Model, Piece, content_of
from inference.model.tokenizer_content import BYTE_LETTERS, added_token, opening, split_at
from inference.reading import shown

_KEYS: Final = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
_CONTROL, _DEFINED = 3, 4
_THREE_DIGITS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ONE_DIGIT: Final = _THREE_DIGITS.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BY_CASE: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORDS: Final = ("", "default", "gpt-2", "phi-2", "olmo", "mpt", "jais")
"""GPT-2's words. Files from before there was a name for it mean one that nobody knows; transformers takes this one."""
_DIGITS: Final = ("smollm", "refact", "starcoder", "command-r", "codeshell", "exaone", "minerva-7b")
"""The same behind a cut around every digit."""
_PATTERNS: Final = {
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "dbrx", "smaug-bpe"), _THREE_DIGITS),
    **dict.fromkeys(("glm4", "chatglm-bpe"), _THREE_DIGITS),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen"), _ONE_DIGIT),
    "tekken": _BY_CASE,
}
_WHOLE_FIRST: Final = ("llama3", "llama-v3", "llama-bpe", "falcon3", "tekken")
"""Where a word that is a token is one, however it would be merged; their texts begin with the first token."""


def write_tokenizer(fields: Mapping[str, Any], directory: Path) -> list[int]:
    """Write tokenizer.json and tokenizer_config.json into `directory`; the ids of the tokens that end an answer.

    `fields` are a file's, by their full names. Raises `GgufError`.
    """
    own = own_fields(fields)
    check_vocabulary(own)
    kind, ids = own.get("model"), special_ids(fields)
    if kind not in ("llama", "gpt2"):
        raise GgufError(f"its tokenizer is of the kind {shown(kind)}, and llama and gpt2 are read; use safetensors")
    settings = _settings(own, ids)
    content = _pieces(own, settings) if kind == "llama" else _bytes(own, settings)
    _write(directory / "tokenizer.json", content)
    _write(directory / "tokenizer_config.json", settings)
    return sorted({ids[key] for key in ENDS if key in ids})


def _settings(own: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    names = {name: own["tokens"][ids[key]] for name, key in _KEYS.items() if key in ids}
    begins = own.get("model") == "llama" or own.get("pre") in _WHOLE_FIRST
    prefix = {} if own.get("add_space_prefix") is None else {"add_prefix_space": own["add_space_prefix"]}
    if own.get("general.architecture") == "phi3":
        prefix["legacy"] = True
    # By this name transformers takes the file as it is, whatever the model.
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    return kind | names | prefix | {"add_bos_token": own.get("add_bos_token", begins), "chat_template": _templates(own)}


def _templates(own: Mapping[str, Any]) -> Any:
    plain, with_tools = own.get("tokenizer.chat_template"), own.get("tokenizer.chat_template.tool_use")
    if plain is None or with_tools is None:
        return plain
    return [{"name": "default", "template": plain}, {"name": "tool_use", "template": with_tools}]


def _pieces(own: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content for pieces with scores, as SentencePiece has them."""
    tokens = own["tokens"]
    scores, kinds = own.get("scores") or [0.0] * len(tokens), own.get("token_type") or [1] * len(tokens)
    rows = zip(map(_spelt, tokens), scores, kinds, strict=True)
    special = {name: settings[name] for name in _KEYS if name in settings}
    joins = bool(own.get("remove_extra_whitespaces", False))
    model = Model([Piece(*row) for row in rows], has_bytes=True, joins_spaces=joins, special=special)
    content = content_of(model, settings)
    for token in content["added_tokens"]:
        token["rstrip"] = _takes_space(own, token)
    return content


def _spelt(token: str) -> str:
    """Several spaces, which some files spell as such, as a piece has them."""
    return "▁" * len(token) if token and not token.strip(" ") else token


def _takes_space(own: Mapping[str, Any], token: Mapping[str, Any]) -> bool:
    """Phi-3's control tokens take the space behind them, which its files cannot say."""
    is_phi3 = own.get("general.architecture") == "phi3"
    return is_phi3 and token["special"] and token["content"] not in ("<unk>", "<s>", "<|endoftext|>")


def _bytes(own: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content for byte-level byte-pair encoding."""
    tokens, pre = own["tokens"], own.get("pre", "")
    kinds = own.get("token_type") or [1] * len(tokens)
    vocab = {token: number for number, token in enumerate(tokens)}
    begins = settings["add_bos_token"] and "bos_token" in settings
    return {
        "version": "1.0",
        "added_tokens": [
            added_token(number, token, kind == _CONTROL)
            for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind in (_CONTROL, _DEFINED)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _splits(pre)},
        "post_processor": opening(settings["bos_token"], vocab) if begins else None,
        "decoder": BYTE_LETTERS,
        "model": {
            "type": "BPE",
            "ignore_merges": pre in _WHOLE_FIRST,
            "vocab": vocab,
            "merges": [merge.split(" ", 1) for merge in own.get("merges") or ()],
        },
    }


def _splits(pre: str) -> list[dict[str, Any]]:
    """How texts are cut into words before pairs are merged, which the file gives by a name. Guessed, tokens are wrong
    without anybody's notice, so an unknown one is refused."""
    letters = BYTE_LETTERS | {"use_regex": pre not in _PATTERNS}
    if pre in _PATTERNS:
        return [split_at(_PATTERNS[pre]), letters]
    if pre in _DIGITS:
        return [{"type": "Digits", "individual_digits": True}, letters]
    if pre not in _WORDS:
        known = ", ".join(sorted({*_PATTERNS, *_DIGITS, *filter(None, _WORDS)}))
        raise GgufError(
            f"its tokenizer cuts words as {shown(pre)} does, which is not known here ({known} are); use the model's "
            "safetensors with their tokenizer.json"
        )
    return [letters]


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
