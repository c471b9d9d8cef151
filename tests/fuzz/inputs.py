"""How the inputs of each target are made of its corpus."""

from __future__ import annotations

from typing import Any, Final

from hypothesis.strategies import SearchStrategy, one_of

from tests.fuzz import bases
from tests.fuzz.corpus import BODIES, CONFIGS, CORPUS, MESSAGES, PROMPTS, ROWS, WIRE, ZIPS
from tests.fuzz.damage import ENCODINGS, bytes_like, json_like, lines_like, trees_like, weights_like, zips_like
from tests.fuzz.targets import GATE, WEIGHTS

MOST_BYTES: Final = 20_000
"""Larger inputs of the corpus are replayed alone: damaging them teaches nothing more."""


def _bytes(target: str) -> SearchStrategy[bytes]:
    return bytes_like([data for data in CORPUS[target].values() if len(data) <= MOST_BYTES])


def _as_gguf(tree: Any) -> bytes:
    return bases.gguf_bytes(tree if isinstance(tree, dict) else {})


INPUTS: Final[dict[str, SearchStrategy[bytes]]] = {
    "safetensors": one_of(weights_like(WEIGHTS), weights_like(WEIGHTS), _bytes("safetensors")),
    "adapter_config": one_of(json_like(CONFIGS, ENCODINGS), json_like(CONFIGS, ENCODINGS), _bytes("adapter_config")),
    "gate": one_of(weights_like(GATE), weights_like(GATE), _bytes("gate")),
    "archive": one_of(zips_like(ZIPS), _bytes("archive")),
    "card": _bytes("card"),
    "template": one_of(json_like(PROMPTS), _bytes("template")),
    "rows": one_of(lines_like(ROWS), _bytes("rows")),
    "socket": one_of(json_like(MESSAGES), _bytes("socket")),
    "protocol": one_of(json_like(WIRE), _bytes("protocol")),
    "api": one_of(json_like(BODIES), _bytes("api")),
    "markdown": _bytes("markdown"),
    "base_config": one_of(json_like(bases.CONFIGS), json_like(bases.CONFIGS), _bytes("base_config")),
    "base_weights": one_of(*(weights_like(bases.weights(scheme)) for scheme in bases.SCHEMES), _bytes("base_weights")),
    "base_gguf": one_of(
        trees_like([bases.FILE]).map(_as_gguf), trees_like([bases.FILE]).map(_as_gguf), _bytes("base_gguf")
    ),
    "base_answers": json_like(bases.ANSWERS),
}
