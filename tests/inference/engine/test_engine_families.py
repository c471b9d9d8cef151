"""Engines over bases of other families than Llama: rows are exact, beginnings are shared, answers are taken over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inference.engine.engine import Engine
from inference.wire.contract import Resume
from inference.wire.protocol import AdapterRef, Generate, Sampling
from tests.inference.checkpoints import make_adapter
from tests.inference.engines import VOCAB, Record, assert_nothing_held, drain, make_config, make_tokenizer
from tests.inference.families import make_family

pytestmark = pytest.mark.slow

PROMPT = "a prompt of more than two tiles, so that chunks and tiles of it can be told apart: yes"
VARIANTS = (
    *("qwen2, window", "qwen3", "smollm3, biases, window", "granite", "olmo2", "phi", "phi3, short context"),
    *("gemma", "gemma2, low caps", "gemma3", "stablelm, parallel, normed heads", "glm4"),
)


def ask(id: str, digest: str = "", prompt: str = PROMPT) -> Generate:
    settings: dict[str, Any] = {"max_tokens": 24, "temperature": 1.5, "seed": 11, "ignore_eos": True, "logprobs": 3}
    return Generate(id, adapter=AdapterRef(digest) if digest else None, prompt=prompt, sampling=Sampling(**settings))


def alone(engine: Engine, digest: str) -> Record:
    engine.add(ask("alone", digest))
    return drain(engine)["alone"]


@pytest.mark.cell("engine", "engine")
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_answer_is_the_same_alone_in_company_from_a_known_beginning_and_taken_over(
    tmp_path: Path, variant: str
) -> None:
    model, store = make_family(tmp_path / "tiny", variant, vocab_size=VOCAB), tmp_path / "adapters"
    make_tokenizer(model)
    store.mkdir()
    digest = make_adapter(model, store, target_modules="all-linear", size=0.1)
    engine = Engine(make_config(model, store, context_length=128, dtype="bfloat16"))
    assert engine.load.self_check == "exact"
    whole = alone(engine, digest)
    for number in range(5):
        engine.add(ask(f"{number}", digest if number % 2 else "", PROMPT[: 20 * number + 3]))
    engine.add(ask("again", digest))
    again = drain(engine)["again"]
    assert (again.token_ids, again.logprobs) == (whole.token_ids, whole.logprobs)
    assert again.finished.stats.cached_tokens > 0
    engine.add(ask("late", digest), Resume(tuple(whole.token_ids[:9]), whole.num_chars[8]))
    assert drain(engine)["late"].token_ids == whole.token_ids[9:]
    assert_nothing_held(engine)
    engine.close()
