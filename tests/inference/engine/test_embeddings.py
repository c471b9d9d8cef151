"""The mean of a prompt's last hidden states: as a forward pass has it, and the same whatever is computed beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.engine.engine import Engine
from inference.wire.protocol import AdapterRef, Generate, Sampling
from tests.inference.conftest import make_adapter, make_model
from tests.inference.engines import VOCAB, assert_nothing_held, drain, make_config, make_tokenizer

pytestmark = pytest.mark.slow

TEXT = "a text of more than two tiles, so that its mean is made of several passes and of a rest: ü 日本"
NATIVE = {"intermediate_size": 128, "head_dim": 32}
"""Widths that the native decoder computes."""
MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    make_tokenizer(make_model(home / "tiny", vocab_size=VOCAB, **NATIVE))
    (home / "adapters").mkdir()
    return home


@pytest.fixture(scope="module")
def digest(home: Path) -> str:
    return make_adapter(home / "tiny", home / "adapters", seed=3, r=8)


@pytest.fixture
def make(home: Path) -> Iterator[MakeEngine]:
    engines: list[Engine] = []

    def make_engine(**changes: Any) -> Engine:
        engines.append(Engine(make_config(home / "tiny", home / "adapters", **{"dtype": "float32", **changes})))
        return engines[-1]

    yield make_engine
    for engine in engines:
        assert_nothing_held(engine)
        engine.close()


def embed(id: str, digest: str = "", text: str = TEXT) -> Generate:
    return Generate(id, adapter=AdapterRef(digest) if digest else None, prompt=text, is_embedding=True)


def expected(home: Path, ids: list[int], digest: str = "") -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(home / "tiny", dtype=torch.float32).eval()
    if digest:
        model = PeftModel.from_pretrained(model, str(home / "adapters" / digest)).get_base_model()
    with torch.no_grad():
        return model.model(torch.tensor([ids])).last_hidden_state[0].mean(0)


@pytest.mark.parametrize("with_adapter", [False, True], ids=["base", "adapter"])
@pytest.mark.parametrize(
    ("decoder", "dtype", "tolerance"), [("torch", "float32", 1e-4), ("auto", "bfloat16", 0.05)], ids=["torch", "auto"]
)
def test_it_is_the_mean_that_a_forward_pass_has(
    make: MakeEngine, home: Path, digest: str, decoder: str, dtype: str, tolerance: float, with_adapter: bool
):
    engine, of = make(decoder=decoder, dtype=dtype, prefill_tokens=32), digest if with_adapter else ""
    engine.add(embed("a", of))
    record = drain(engine)["a"]
    (vector,) = record.vectors
    ids = engine.machine.tokenizer.begin(engine.machine.tokenizer.encode(TEXT))
    assert torch.allclose(torch.tensor(vector), expected(home, ids, of), atol=tolerance)
    stats = record.finished.stats
    assert (record.finished.reason, stats.prompt_tokens, stats.completion_tokens) == ("done", len(ids), 0)
    assert (record.text, record.token_ids, record.prompted) == ("", [], [])


@pytest.mark.parametrize("decoder", ["auto", "torch"])
def test_company_and_what_is_known_change_no_bit(make: MakeEngine, digest: str, decoder: str):
    engine = make(decoder=decoder, dtype="bfloat16")
    answer = Generate("answer", prompt=TEXT, sampling=Sampling(max_tokens=6, ignore_eos=True))
    engine.add(answer)
    alone = drain(engine)["answer"].token_ids
    engine.add(embed("alone"))
    first = drain(engine)["alone"].vectors
    for request in (embed("short", text="another"), answer, embed("again"), embed("other", digest)):
        engine.add(request)
    records = drain(engine)
    assert records["again"].vectors == first != records["other"].vectors
    assert records["answer"].token_ids == alone


def test_a_text_may_fill_the_context(make: MakeEngine):
    engine = make()
    length = engine.machine.context_length
    engine.add(embed("whole", text="x" * length))
    engine.add(embed("more", text="x" * (length + 1)))
    records = drain(engine)
    assert len(records["whole"].vectors) == 1
    context = f"This model's maximum context length is {length} tokens."
    assert (
        records["more"].failed.error == f"{context} The prompt has {length + 1} tokens; shorten it by 1 tokens or more."
    )


def test_a_preempted_text_is_read_again_with_the_same_bits(make: MakeEngine):
    engine = make(prefill_tokens=32)
    engine.add(embed("alone"))
    first = drain(engine)["alone"].vectors
    engine.add(embed("again"))
    engine.step()
    engine.scheduler.preempt(engine.scheduler.running[0])
    assert drain(engine)["again"].vectors == first
