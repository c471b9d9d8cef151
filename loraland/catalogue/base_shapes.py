"""The modules of a base model, read from its config.json: what an adapter's tensors must fit."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from django.conf import settings

TARGETS: Final = {
    "q_proj": "self_attn",
    "k_proj": "self_attn",
    "v_proj": "self_attn",
    "o_proj": "self_attn",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "mlp",
}
"""The linears of a layer that an adapter may change, and the block of the layer that each lies in."""

EMBEDDING: Final = "model.embed_tokens"
HEAD: Final = "lm_head"

_MODULE: Final = re.compile(r"model\.layers\.(0|[1-9][0-9]{0,4})\.(self_attn|mlp)\.([a-z]+_proj)")


@dataclass(frozen=True)
class BaseShapes:
    """The sizes of a Llama-like decoder that decide the shapes of its linears and its two tables of tokens."""

    name: str
    num_layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int

    def features(self, module: str) -> tuple[int, int] | None:
        """(in, out) features of `module`, such as ``model.layers.0.self_attn.q_proj``; None when there is none."""
        if module in (EMBEDDING, HEAD):
            return (self.vocab, self.hidden) if module == EMBEDDING else (self.hidden, self.vocab)
        match = _MODULE.fullmatch(module)
        if match is None or int(match[1]) >= self.num_layers or TARGETS.get(match[3]) != match[2]:
            return None
        return {
            "q_proj": (self.hidden, self.heads),
            "k_proj": (self.hidden, self.kv_heads),
            "v_proj": (self.hidden, self.kv_heads),
            "o_proj": (self.heads, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }[match[3]]


def served_shapes() -> BaseShapes | None:
    """The shapes of the base that this site serves; None while its config.json is not on this machine."""
    return shapes_of(settings.BASE_NAME) or _read(settings.BASE_NAME, Path(settings.BASE_MODEL) / "config.json")


def shapes_of(name: str) -> BaseShapes | None:
    """The shapes of the base model `name`; None when it is not among the models of this machine."""
    if not name or Path(name).name != name:
        return None
    return _read(name, settings.MODELS_DIR / name / "config.json")


def _read(name: str, path: Path) -> BaseShapes | None:
    if not path.is_file():
        return None
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    num_heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // num_heads
    return BaseShapes(
        name=name,
        num_layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        heads=num_heads * head_dim,
        kv_heads=(config.get("num_key_value_heads") or num_heads) * head_dim,
        vocab=config["vocab_size"],
    )
