"""What a base's files say of its answers: the tokens and strings that end one, and how the next token is chosen."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

GENERATION: Final = "generation_config.json"
_OFF: Final[Mapping[str, tuple[Any, ...]]] = {
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "epsilon_cutoff", "eta_cutoff"), ()),
    **dict.fromkeys(("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias", "top_h"), ()),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "force_words_ids", "constraints"), ()),
    **dict.fromkeys(("exponential_decay_length_penalty", "dola_layers", "watermarking_config"), ()),
    **dict.fromkeys(("min_length", "min_new_tokens", "diversity_penalty", "penalty_alpha"), ()),
    **dict.fromkeys(("num_beams", "num_beam_groups", "encoder_repetition_penalty", "guidance_scale"), (1,)),
}
"""Keys that change answers and are not computed here, and which of their values ask for nothing, as 0 and null do."""
_SHAPES: Final = ("temperature", "top_k", "top_p", "min_p", "typical_p")
_PENALTY: Final = "repetition_penalty"


class GenerationRefused(ValueError):
    """A generation_config.json that asks for what is not computed here; the text is one sentence."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file at `path`, an empty one where there is no file."""
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def end_ids(directory: Path, settings: Mapping[str, Any], id_of: Callable[[str], int | None]) -> frozenset[int]:
    """Every token that ends an answer, by the tokenizer's `settings` and any other file of the base's: one, or a list,
    by number or by name."""
    config = read_json(directory / "config.json")
    numbered = [settings, config, config.get("text_config") or {}, read_json(directory / GENERATION)]
    ids: list[Any] = [id_of(name) for name in map(content, _listed(settings.get("eos_token")))]
    ids += [id for file in numbered for id in _listed(file.get("eos_token_id"))]
    return frozenset(id for id in ids if type(id) is int)


def end_strings(directory: Path) -> tuple[str, ...]:
    """The strings that end an answer, whoever asks."""
    return tuple(text for text in _listed(read_json(directory / GENERATION).get("stop_strings")) if text)


def own_sampling(directory: Path) -> dict[str, float]:
    """How the base's makers would have tokens chosen: what differs from taking the likeliest, by our names for it.

    Without `do_sample` only the penalty counts, as in transformers. Raises `GenerationRefused` for what would be
    another answer than theirs.
    """
    asked = read_json(directory / GENERATION)
    wrong = [key for key, neutral in _OFF.items() if asked.get(key) and asked[key] not in neutral]
    if wrong:
        sentence = f"{GENERATION} asks for {wrong[0]}={json.dumps(asked[wrong[0]])[:60]}, which is not computed here"
        raise GenerationRefused(f"{sentence}; take DEFAULT_SAMPLING=greedy")
    shape = {key: asked[key] for key in _SHAPES if asked.get(key) is not None}
    found = {"temperature": 1.0, **shape} if asked.get("do_sample") else {}
    penalty = asked.get(_PENALTY)
    return found | ({_PENALTY: penalty} if penalty not in (None, 1) else {})


def content(token: Any) -> str:
    """The text of a token as configurations have it: plain, an object around it, or the first of several."""
    token = token[0] if isinstance(token, list) and token else token
    return str(token.get("content", "")) if isinstance(token, dict) else token or ""


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
