"""What the real base and a shipped adapter make of a prompt, as transformers and PEFT have it in float32."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.engine.engine import Engine
from inference.wire.protocol import AdapterRef, Generate, Message, Sampling
from tests.conftest import REPO
from tests.inference.checkpoints import publish
from tests.inference.engines import drain, make_config

pytestmark = pytest.mark.slow

SHIPPED = REPO / "adapters" / "banking77"
TEXT = (
    "Classify the intent of this query.\nQuery: My card was eaten by the machine 😱 日本, what now?\nIntent: lost card"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("home") / "adapters"
    store.mkdir()
    return store


@pytest.fixture(scope="module")
def digest(store: Path) -> str:
    shutil.copytree(SHIPPED, store / "staging", ignore=shutil.ignore_patterns("*.toml"))
    return publish(store / "staging", store)


@pytest.fixture(scope="module")
def engine(model_dir: Path, store: Path, digest: str) -> Iterator[Engine]:
    engine = Engine(make_config(model_dir, store, dtype="float32"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def models(model_dir: Path) -> dict[str, Any]:
    """The model's logits and its last hidden states of a list of ids, for the base and for the adapter."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    other = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    return {"base": base, "adapter": PeftModel.from_pretrained(other, str(SHIPPED)).eval()}


@pytest.mark.parametrize("model", ["base", "adapter"])
def test_how_likely_a_prompt_is_and_its_mean(engine: Engine, digest: str, models: dict[str, Any], model: str) -> None:
    ref = AdapterRef(digest) if model == "adapter" else None
    scored = Sampling(max_tokens=0, prompt_logprobs=3)
    engine.add(Generate("scored", ref, prompt=TEXT, sampling=scored))
    engine.add(Generate("mean", ref, prompt=TEXT, is_embedding=True))
    engine.add(Generate("beside", prompt="Something else is read in the same passes.", sampling=Sampling(max_tokens=8)))
    records = drain(engine)
    assert records["scored"].finished.reason == "length"
    prompted = records["scored"].prompted
    assert b"".join(token.data for token in prompted).decode() == TEXT
    with torch.no_grad():
        ids = torch.tensor([[token.token_id for token in prompted]])
        out = models[model](ids, output_hidden_states=True)
    expected = out.logits[0, :-1].log_softmax(-1)
    told = torch.tensor([token.logprob for token in prompted[1:]])
    torch.testing.assert_close(told, expected.gather(1, ids[0, 1:, None])[:, 0], atol=1e-3, rtol=0)
    best = torch.tensor([[one.logprob for one in token.top] for token in prompted[1:]])
    torch.testing.assert_close(best, expected.topk(3).values, atol=1e-3, rtol=0)
    (vector,) = records["mean"].vectors
    torch.testing.assert_close(torch.tensor(vector), out.hidden_states[-1][0].mean(0), atol=1e-3, rtol=1e-4)


def test_the_bytes_of_an_answer_with_emojis_are_its_text(engine: Engine) -> None:
    faces = "😀 😃 😄 😁 😀 😃 😄 😁"
    said = (Message("system", "You answer with emojis only."), Message("user", f"{faces} Continue this list: 😀 😃"))
    engine.add(Generate("a", messages=said, sampling=Sampling(max_tokens=24, logprobs=2)))
    record = drain(engine)["a"]
    joined = b"".join(token.data for token in record.logprobs if not token.is_special)
    assert any(token.hex for token in record.logprobs)
    assert joined.decode(errors="ignore") == record.text
