"""What a base's files say of its answers: the tokens and strings that end one, and how the next token is chosen."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from inference.model.json_file import read_object
from inference.reading import Refused, shown

log = logging.getLogger(__name__)

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


class GenerationRefused(Refused):
    """A file that asks for what is not computed here, or says what cannot be meant; the text is one sentence."""


def end_ids(directory: Path, settings: Mapping[str, Any], id_of: Callable[[str], int | None]) -> frozenset[int]:
    """Every token that ends an answer, by the tokenizer's `settings` and any other file of the base's: one, or a list,
    by number or by name. Raises `GenerationRefused` for what is none."""
    told = [("config.json", file.get("eos_token_id")) for file in _configs(directory)]
    told += [(GENERATION, read_object(directory / GENERATION, GenerationRefused).get("eos_token_id"))]
    told += [("the tokenizer's settings", settings.get("eos_token_id"))]
    told += [("the tokenizer's settings", id_of(name)) for name in map(content, _listed(settings.get("eos_token")))]
    most = table_rows(directory)
    return frozenset(id for file, ids in told for id in _numbers(file, ids, most))


def table_rows(directory: Path) -> int | None:
    """How many tokens the base's table has, by its config.json; None where that does not say. Raises
    `GenerationRefused`."""
    sizes = [config.get("vocab_size") for config in _configs(directory)]
    return next((size for size in reversed(sizes) if type(size) is int), None)


def _configs(directory: Path) -> list[dict[str, Any]]:
    """The config.json, and the one of the text within it."""
    config = read_object(directory / "config.json", GenerationRefused)
    inner = config.get("text_config")
    return [config, inner] if isinstance(inner, dict) else [config]


def end_strings(directory: Path) -> tuple[str, ...]:
    """The strings that end an answer, whoever asks. Raises `GenerationRefused` for what is none."""
    told = read_object(directory / GENERATION, GenerationRefused).get("stop_strings")
    if any(not isinstance(text, str | None) for text in _listed(told)):
        raise GenerationRefused(f"{GENERATION} has stop_strings {shown(told)}; they are a text, or a list of texts")
    return tuple(text for text in _listed(told) if text)


def own_sampling(directory: Path) -> dict[str, float]:
    """How the base's makers would have tokens chosen: what differs from taking the likeliest, by our names for it.

    Without `do_sample` only the penalty counts, as in transformers. Raises `GenerationRefused` for what would be
    another answer than theirs.
    """
    asked = read_object(directory / GENERATION, GenerationRefused)
    samples = asked.get("do_sample")
    if not isinstance(samples, bool | None):
        raise GenerationRefused(f"{GENERATION} has do_sample {shown(samples)}; it is true or false")
    wrong = [key for key, neutral in _OFF.items() if asked.get(key) and asked[key] not in neutral]
    if wrong:
        sentence = f"{GENERATION} asks for {wrong[0]}={json.dumps(asked[wrong[0]])[:60]}, which is not computed here"
        raise GenerationRefused(f"{sentence}; take DEFAULT_SAMPLING=greedy")
    shape = {key: asked[key] for key in _SHAPES if asked.get(key) is not None}
    found = {"temperature": 1.0, **shape} if samples else {}
    penalty = asked.get(_PENALTY)
    return found | ({_PENALTY: penalty} if penalty not in (None, 1) else {})


def content(token: Any) -> str:
    """The text of a token as configurations have it: plain, an object around it, or the first of several; empty for
    none. Raises `GenerationRefused` for anything else."""
    first = token[0] if isinstance(token, list) and token else token
    text = first.get("content", "") if isinstance(first, dict) else first or ""
    if not isinstance(text, str):
        raise GenerationRefused(f"a token is called {shown(token)}; its name is a text, or an object with its content")
    return text


def _numbers(file: str, told: Any, most: int | None) -> Iterator[int]:
    """The ids in `told`, of a base with `most` tokens. One that is beyond them ends nothing, and is told."""
    for value in _listed(told):
        if value is None or value == -1:  # as which some say that there is none
            continue
        if type(value) is not int or value < 0:
            raise GenerationRefused(
                f"eos_token_id of {file} is {shown(told)}; it is the number of a token, or lists some"
            )
        if most is not None and value >= most:
            log.warning("eos_token_id of %s has %d, which is none of %d tokens and ends nothing", file, value, most)
        else:
            yield value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
