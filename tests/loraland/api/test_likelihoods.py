"""What a harness reads from /v1/completions, with a real engine behind it, is what transformers and PEFT compute."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from django.conf import settings as site_settings
from peft import PeftModel
from transformers import AutoModelForCausalLM

from inference.engine.engine import Engine
from inference.model.tokenizer import Tokenizer
from inference.wire.contract import Wire
from inference.worker.worker import Worker, WorkerConfig
from tests.inference.checkpoints import make_adapter, make_model
from tests.inference.engines import EOS, VOCAB, make_config, make_tokenizer
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow

PAIRS = [("The capital is", " Paris"), ("One,", " two, three"), ("ü 日", "本")]
"""Contexts and what may come behind them; of the tokenizer here each byte is a token."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    make_tokenizer(make_model(home / "tiny", vocab_size=VOCAB, intermediate_size=128, head_dim=32))
    (home / "adapters").mkdir()
    return home


@pytest.fixture(scope="module")
def digest(home: Path) -> str:
    return make_adapter(home / "tiny", home / "adapters", seed=3, r=8)


@pytest.fixture(scope="module")
def ids_of(home: Path) -> Callable[[str], list[int]]:
    return Tokenizer(home / "tiny").encode


@pytest_asyncio.fixture
async def engine(site_wire: Wire, home: Path) -> AsyncIterator[None]:
    """A worker that computes in float32."""
    config = make_config(home / "tiny", home / "adapters", dtype="float32")
    worker = Worker(site_wire, lambda: Engine(config), WorkerConfig(site_settings.BASE_KEY, "w"))
    running = asyncio.create_task(worker.run())
    yield
    worker.close()
    assert await asyncio.wait_for(running, PATIENCE) == 0


@pytest.fixture
def models(home: Path, digest: str, publish: Callable) -> dict[str, Callable[[list[int]], torch.Tensor]]:
    """For the base and for an adapter the log-probabilities of each next token, as one forward pass has them."""
    publish("random", digest=digest)
    base = AutoModelForCausalLM.from_pretrained(home / "tiny", dtype=torch.float32).eval()
    other = AutoModelForCausalLM.from_pretrained(home / "tiny", dtype=torch.float32)
    adapted = PeftModel.from_pretrained(other, home / "adapters" / digest).eval()
    return {"base": _forward(base), "random": _forward(adapted)}


def _forward(model: torch.nn.Module) -> Callable[[list[int]], torch.Tensor]:
    return lambda ids: model(torch.tensor([ids])).logits[0].detach().log_softmax(-1)


def likelihood(choice: dict, num_context: int) -> tuple[float, bool]:
    """The sum over a continuation and whether it is what greedy decoding gives, as harnesses work them out: the last
    token is the one that was asked for in addition."""
    logprobs = choice["logprobs"]
    chosen, tops = logprobs["token_logprobs"][num_context:-1], logprobs["top_logprobs"][num_context:-1]
    return sum(chosen), all(one == max(top.values()) for one, top in zip(chosen, tops, strict=True))


async def test_the_likelihoods_of_continuations_are_those_of_a_forward_pass(http, engine, models, ids_of):
    texts = [context + continuation for context, continuation in PAIRS]
    for model, forward in models.items():
        for prompt in (texts, [ids_of(text) for text in texts]):
            asked = {"model": model, "prompt": prompt, "max_tokens": 1, "logprobs": 1, "echo": True, "seed": 1234}
            done = (await http.post("/v1/completions", json=asked, timeout=PATIENCE)).json()
            for (context, _), text, choice in zip(PAIRS, texts, done["choices"], strict=True):
                ids, num_context = ids_of(text), len(ids_of(context))
                expected = forward(ids)
                total, is_greedy = likelihood(choice, num_context)
                places = range(num_context, len(ids))
                assert total == pytest.approx(sum(float(expected[at - 1, ids[at]]) for at in places), abs=1e-3)
                assert is_greedy == all(int(expected[at - 1].argmax()) == ids[at] for at in places)
                assert len(choice["logprobs"]["tokens"]) == len(ids) + 1
                assert choice["text"].startswith(text)


async def test_what_greedy_decoding_would_give_is_told_to_be_greedy(http, engine, models, ids_of):
    for model, forward in models.items():
        context = ids_of("One,")
        ids = list(context)
        for _ in range(6):
            ids.append(int(forward(ids)[-1].argmax()))
        asked = {
            "model": model,
            "prompt": [ids, [*ids[:-1], ids[-1] - 1]],
            "max_tokens": 1,
            "logprobs": 1,
            "echo": True,
        }
        choices = (await http.post("/v1/completions", json=asked, timeout=PATIENCE)).json()["choices"]
        assert [likelihood(choice, len(context))[1] for choice in choices] == [True, False]


async def test_max_tokens_0_tells_the_prompt_alone_and_n_answers_read_it_once(http, engine, models, ids_of):
    prompt = ids_of("a prompt of more than two tiles, of which a part is known once it has been read: 日本")
    asked = {"model": "random", "prompt": prompt, "echo": True, "logprobs": 2, "max_tokens": 0}
    (choice,) = (await http.post("/v1/completions", json=asked, timeout=PATIENCE)).json()["choices"]
    assert len(choice["logprobs"]["tokens"]) == len(prompt)
    several = {"model": "random", "prompt": [*prompt, EOS], "n": 3, "temperature": 1, "seed": 7, "max_tokens": 4}
    done = (await http.post("/v1/completions", json=several, timeout=PATIENCE)).json()
    assert done["usage"]["prompt_tokens"] == len(prompt) + 1
    alone = [
        (await http.post("/v1/completions", json=several | {"n": 1, "seed": 7 + number}, timeout=PATIENCE)).json()
        for number in range(3)
    ]
    assert [choice["text"] for choice in done["choices"]] == [each["choices"][0]["text"] for each in alone]


async def test_an_id_that_is_no_token_is_refused_in_words(http, engine, models):
    refused = await http.post("/v1/completions", json={"model": "base", "prompt": [5, VOCAB]}, timeout=PATIENCE)
    assert refused.status_code == 400
    assert str(VOCAB) in refused.json()["error"]["message"]
