"""The engine with the real base model: what transformers says, and no bit that depends on company."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from inference.engine.engine import Engine
from inference.wire.contract import Resume
from inference.wire.protocol import Generate, Message, Sampling
from tests.inference.engines import Records, assert_nothing_held, drain, make_config

pytestmark = pytest.mark.slow

QUESTIONS = ("What is the capital of France?", "Name three colours.", "Write a line about the sea 🌊.")
LENGTH = 16
SAMPLED = {"temperature": 0.7, "seed": 2, "repetition_penalty": 1.01}

MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="module")
def make(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeEngine]:
    engines: dict[tuple[object, ...], Engine] = {}

    def make_engine(dtype: str, **changes: object) -> Engine:
        key = (dtype, *changes.items())
        if key not in engines:
            store = tmp_path_factory.mktemp("home") / "adapters"
            engines[key] = Engine(make_config(model_dir, store, dtype=dtype, **changes))
        return engines[key]

    yield make_engine
    for engine in engines.values():
        engine.close()


def chat(id: str, question: str, **sampling: object) -> Generate:
    settings = Sampling(**{"max_tokens": LENGTH, **sampling})  # type: ignore[arg-type]
    return Generate(id, messages=(Message("user", question),), sampling=settings)


def test_greedy_text_is_that_of_transformers(make: MakeEngine, model_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    engine = make("float32")
    for question in QUESTIONS:
        engine.add(chat(question, question))
    records = drain(engine)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)
        expected = out[0, inputs["input_ids"].shape[1] :].tolist()
        assert records[question].token_ids == expected
        assert records[question].text == tokenizer.decode(expected, skip_special_tokens=True).rstrip("\ufffd")
    assert_nothing_held(engine)


def test_company_and_takeovers_change_no_bit(make: MakeEngine) -> None:
    engine = make("bfloat16")
    assert engine.load.self_check == "exact"
    it = chat("it", "Tell me a short story.", temperature=1.0, seed=3, logprobs=2, ignore_eos=True)
    engine.add(it)
    expected = drain(engine)["it"]
    records = Records()
    for number, question in enumerate(QUESTIONS):
        engine.add(chat(question, question, temperature=number / 2))
    records.take(engine.step())
    engine.add(it)
    crowd = drain(engine, records)["it"]
    assert (crowd.token_ids, crowd.logprobs) == (expected.token_ids, expected.logprobs)
    for seen in (1, 15):
        engine.add(it, Resume(tuple(expected.token_ids[:seen]), expected.num_chars[seen - 1]))
        rest = drain(engine)["it"]
        assert (rest.token_ids, rest.logprobs) == (expected.token_ids[seen:], expected.logprobs[seen:])
    assert_nothing_held(engine)


@pytest.mark.parametrize(
    ("decoder", "sampling"),
    [("auto", {}), ("auto", SAMPLED), ("torch", SAMPLED)],
)
def test_a_known_beginning_and_guesses_change_no_bit(
    make: MakeEngine, decoder: str, sampling: dict[str, float]
) -> None:
    """A chat of three turns, each of which begins with all that was said, with a line to copy."""
    engine = make("bfloat16", decoder=decoder)
    plain = make("bfloat16", decoder=decoder, prefix_cache="off", speculation=False)
    accepted = engine.load.accepted_tokens
    messages = [Message("user", "Repeat: the quick brown fox jumps over the lazy dog near the old river bank.")]
    for _ in range(3):
        settings = Sampling(max_tokens=30, ignore_eos=True, logprobs=2, **sampling)  # type: ignore[arg-type]
        request = Generate("it", messages=tuple(messages), sampling=settings)
        for one in (engine, plain):
            one.add(request)
        quick, expected = (drain(one)["it"] for one in (engine, plain))
        assert (quick.token_ids, quick.logprobs, quick.text) == (expected.token_ids, expected.logprobs, expected.text)
        messages += [Message("assistant", expected.text), Message("user", "Once more.")]
    assert quick.finished.stats.cached_tokens >= 64
    assert expected.finished.stats.cached_tokens == 0
    assert engine.load.accepted_tokens > accepted
    assert_nothing_held(engine)


def test_a_beginning_that_ends_within_a_block_is_found_to_the_token(make: MakeEngine) -> None:
    engine = make("bfloat16")
    plain = make("bfloat16", prefix_cache="off")
    shared = "Tweet: The ferry was late again, and why?\nMood: annoyed\n\nTweet: Free coffee on the boat!\nMood: glad"
    settings = Sampling(max_tokens=12, ignore_eos=True, logprobs=2)
    for tweet in ("The sea was so calm that we all fell asleep on deck, even the dog.", "We ran out of fuel."):
        request = Generate("it", prompt=f"{shared}\n\nTweet: {tweet}\nMood:", sampling=settings)
        for one in (engine, plain):
            one.add(request)
        found, expected = (drain(one)["it"] for one in (engine, plain))
        assert (found.token_ids, found.logprobs) == (expected.token_ids, expected.logprobs)
    common = len(engine.machine.tokenizer.encode(f"{shared}\n\nTweet:"))
    assert common % 32
    is_uniform = engine.machine.runner.decoder.rows_are_uniform
    assert found.finished.stats.cached_tokens == (common if is_uniform else common // 32 * 32)
