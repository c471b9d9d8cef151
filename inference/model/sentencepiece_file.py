"""A base's ``tokenizer.model`` of SentencePiece as the tokenizer.json that the same tokenizer would have."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from inference.model.merges import merges_of
from inference.model.tokenizer_content import added_token, opening

_UNIGRAM: Final = 1
_BPE: Final = 2
_UNKNOWN, _CONTROL, _DEFINED, _BYTE = 2, 3, 4, 6
_SPACE: Final = "▁"
_SPECIAL: Final = {41: "bos_token", 42: "eos_token", 40: "unk_token", 43: "pad_token"}
"""The fields of a trainer's description that hold the ids of special tokens, and what we call these."""


class SentencePieceRefused(ValueError):
    """A tokenizer.model that is not read here; the text is the end of a sentence about it."""


@dataclass(frozen=True)
class Piece:
    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class Model:
    """What a file holds: pieces by id, and how texts are prepared."""

    pieces: list[Piece] = field(default_factory=list)
    kind: int = _UNIGRAM
    has_bytes: bool = False
    charsmap: bytes = b""
    has_prefix: bool = True
    joins_spaces: bool = True
    special: Mapping[str, str] = field(default_factory=dict)


def read_sentencepiece(path: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The content of a tokenizer.json for the file at `path`, and its special tokens by name.

    `settings` are those of tokenizer_config.json, which say where a space is put before a text. Raises
    `SentencePieceRefused`.
    """
    model = _read(path)
    return content_of(model, settings), dict(model.special)


def content_of(model: Model, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a tokenizer.json that cuts texts as `model` does."""
    scheme = _scheme(model, settings)
    vocab = {piece.text: number for number, piece in enumerate(model.pieces)}
    plain = [piece for piece in model.pieces if piece.kind not in (_UNKNOWN, _CONTROL, _BYTE)]
    ranked = sorted(plain, key=lambda piece: -piece.score)
    begin = model.special.get("bos_token") if settings.get("add_bos_token", True) else None
    return {
        "version": "1.0",
        "added_tokens": [
            added_token(number, piece.text, is_special=piece.kind != _DEFINED)
            for number, piece in enumerate(model.pieces)
            if piece.kind in (_UNKNOWN, _CONTROL, _DEFINED)
        ],
        "normalizer": _normalizer(model, has_prefix=scheme != "never"),
        "pre_tokenizer": _spaces("never" if model.joins_spaces else scheme),
        "post_processor": opening(begin, vocab) if begin else None,
        "decoder": _decoder(has_prefix=scheme != "never"),
        "model": {
            "type": "BPE",
            "unk_token": model.special.get("unk_token"),
            "fuse_unk": True,
            "byte_fallback": model.has_bytes,
            "vocab": vocab,
            "merges": merges_of(piece.text for piece in ranked),
        },
    }


def _scheme(model: Model, settings: Mapping[str, Any]) -> str:
    """Where a space is put in front, as transformers reads the same files: before a text, or with `legacy` before what
    follows each control token too."""
    has_prefix = settings.get("add_prefix_space")
    if not (model.has_prefix if has_prefix is None else has_prefix):
        return "never"
    return "always" if settings.get("legacy") else "first"


def _spaces(scheme: str) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": scheme, "split": False}


def _normalizer(model: Model, has_prefix: bool) -> dict[str, Any] | None:
    """How a text is changed before it is cut. Where spaces at its ends go, the one in front is put there after that."""
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()})
    if model.joins_spaces:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
        steps += [{"type": "Prepend", "prepend": _SPACE}] if has_prefix else []
    return {"type": "Sequence", "normalizers": steps} if steps else None


def _decoder(has_prefix: bool) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if has_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _read(path: Path) -> Model:
    try:
        model = _model(path.read_bytes())
    except (LookupError, struct.error, UnicodeDecodeError, ValueError, TypeError) as error:
        raise SentencePieceRefused(
            "is damaged, or not SentencePiece's; save the tokenizer as tokenizer.json"
        ) from error
    if not model.pieces:
        raise SentencePieceRefused("holds no pieces; it is not SentencePiece's. Save the tokenizer as tokenizer.json")
    if model.kind != _BPE:
        kind = "a unigram model" if model.kind == _UNIGRAM else "no byte-pair encoding"
        raise SentencePieceRefused(f"holds {kind}, and byte-pair encodings are read; save it as tokenizer.json")
    return model


def _model(data: bytes) -> Model:
    """The fields of a ModelProto (sentencepiece_model.proto) that say how texts are cut."""
    pieces: list[Piece] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(data):
        if number == 1:
            piece = dict(_fields(value))
            score = struct.unpack("<f", piece.get(2, bytes(4)))[0]
            pieces.append(Piece(piece[1].decode(), score, piece.get(3, 1)))
        elif number == 2:
            trainer = dict(_fields(value))
        elif number == 3:
            normalizer = dict(_fields(value))
    ids = {
        name: trainer.get(key, default) for (key, name), default in zip(_SPECIAL.items(), (1, 2, 0, -1), strict=True)
    }
    return Model(
        pieces=pieces,
        kind=trainer.get(3, _UNIGRAM),
        has_bytes=bool(trainer.get(35, 0)),
        charsmap=normalizer.get(2, b""),
        has_prefix=bool(normalizer.get(3, 1)),
        joins_spaces=bool(normalizer.get(4, 1)),
        special={name: pieces[id].text for name, id in ids.items() if 0 <= id < len(pieces)},
    )


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message of protocol buffers: whole numbers, and bytes for all else."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        length, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        if at + length > len(data):
            raise ValueError("a field ends behind its message")
        yield tag >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, in the two's complement of 64 bits, and where the next thing begins."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value - (1 << 64) * (value >= 1 << 63), at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
