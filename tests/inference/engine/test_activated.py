"""Activated adapters (aLoRA) through the engine: active from their invocation on, with the base's cache before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora.variants import calculate_alora_offsets

from inference.adapters.identity import composed_digest
from inference.adapters.invocation import place_of
from inference.decoders.native.build import missing_feature
from inference.engine.engine import Engine
from inference.wire.contract import Resume
from inference.wire.protocol import UNINVOKED, AdapterRef, Component, Event, Generate, Probe, Progress, Sampling
from tests.inference.conftest import make_adapter, make_model
from tests.inference.engines import VOCAB, Record, Records, assert_nothing_held, drain, make_config, make_tokenizer

pytestmark = pytest.mark.slow
is_native_here = pytest.mark.skipif(missing_feature() is not None, reason=f"not here: {missing_feature()}")

TALK = "a talk of more than two tiles, which many judges read, each with what invokes it behind: "
JUDGE = "<|start|>judge"
PROMPT = TALK + JUDGE + " is it kind?"
LENGTH = 12
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PLAIN, DORA, ALORA, OTHER, LONE = range(5)

MakeEngine = Callable[..., Engine]


@dataclass(frozen=True)
class Home:
    path: Path
    decoder: str
    digests: list[str]
    invocation: tuple[int, ...]

    @property
    def model(self) -> Path:
        return self.path / "tiny"

    def alone(self, make: MakeEngine, prompt: str = PROMPT, which: int | None = ALORA, **sampling: Any) -> Record:
        """The answer of an engine that has seen nothing else."""
        engine = make(prefix_cache="off", speculation=False)
        engine.add(self.ask("alone", which, prompt, **sampling))
        return drain(engine)["alone"]

    def ask(self, id: str, which: int | None = ALORA, prompt: str = PROMPT, **sampling: Any) -> Generate:
        given = {"max_tokens": LENGTH, "temperature": 1.5, "seed": 5, "ignore_eos": True, "logprobs": 3, **sampling}
        adapter = None if which is None else AdapterRef(self.digests[which])
        return Generate(id, adapter=adapter, prompt=prompt, sampling=Sampling(**given), tenant="judge")


@pytest.fixture(scope="module", params=["torch", pytest.param("native", marks=is_native_here)])
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Home:
    path = tmp_path_factory.mktemp(request.param)
    tiny = make_tokenizer(make_model(path / "tiny", vocab_size=VOCAB, head_dim=32, intermediate_size=128))
    (path / "adapters").mkdir()
    from inference.model.tokenizer import Tokenizer

    invocation = tuple(Tokenizer(tiny).encode(JUDGE))
    activated: dict[str, Any] = {"alora_invocation_tokens": list(invocation), "task_type": "CAUSAL_LM"}
    shapes: list[dict[str, Any]] = [
        {},
        {"target_modules": ALL, "use_dora": True},
        {"target_modules": ALL, **activated},
        {"target_modules": ["k_proj", "v_proj", "lm_head"], **activated},
        {"target_modules": ["q_proj"], "alora_invocation_tokens": [1], "task_type": "CAUSAL_LM"},
    ]
    digests = [make_adapter(tiny, path / "adapters", seed, **shape) for seed, shape in enumerate(shapes)]
    return Home(path, request.param, digests, invocation)


@pytest.fixture
def make(home: Home) -> Iterator[MakeEngine]:
    engines: list[Engine] = []

    def make_engine(**changes: Any) -> Engine:
        config = {"decoder": home.decoder, "dtype": "float32", "adapter_slots": 6, **changes}
        engines.append(Engine(make_config(home.model, home.path / "adapters", **config)))
        return engines[-1]

    yield make_engine
    for engine in engines:
        assert_nothing_held(engine)
        engine.close()


def same(one: Record, other: Record) -> bool:
    return (one.token_ids, one.logprobs, one.prompted) == (other.token_ids, other.logprobs, other.prompted)


def num_rows(engine: Engine) -> list[int]:
    """How many rows each pass of `engine` computes, from now on."""
    counts: list[int] = []
    forward = engine.machine.runner.decoder.forward

    def counted(batch: Any, cache: Any) -> Any:
        counts.append(len(batch.token_ids))
        return forward(batch, cache)

    engine.machine.runner.decoder.forward = counted  # type: ignore[method-assign]
    return counts


@pytest.mark.parametrize(
    "prompt", [PROMPT, JUDGE + TALK + JUDGE, "short" + JUDGE, JUDGE + " first", TALK[:60] + JUDGE + TALK, TALK]
)
@pytest.mark.parametrize("which", [ALORA, LONE])
def test_an_answer_equals_peft_alone(home: Home, make: MakeEngine, prompt: str, which: int) -> None:
    engine = make()
    engine.add(home.ask("a", which, prompt, temperature=0.0, logprobs=1))
    record = drain(engine)["a"]
    ids = engine.machine.tokenizer.encode(prompt)
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(home.model, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, home.path / "adapters" / home.digests[which]).eval()
    with torch.no_grad():
        # The answer is read with the prompt, where PEFT would look for the last invocation too.
        (found,) = calculate_alora_offsets(adapted.peft_config, "default", torch.tensor([ids]))
        offset = None if found is None else found + len(record.token_ids) - 1
        text = torch.tensor([[*ids, *record.token_ids[:-1]]])
        logits = adapted(text, alora_offsets=[offset]).logits[0, len(ids) - 1 :]
    assert record.token_ids == logits.argmax(-1).tolist()
    told = torch.tensor([token.logprob for token in record.logprobs])
    torch.testing.assert_close(told, logits.log_softmax(-1).amax(-1), atol=1e-3, rtol=0)
    invocation = home.invocation if which == ALORA else (1,)
    assert record.finished.stats.invoked_at == place_of(invocation, ids)


def test_the_base_answers_a_prompt_that_does_not_invoke_it_and_says_so(home: Home, make: MakeEngine) -> None:
    engine = make()
    events: list[Event] = []
    engine.add(home.ask("it", ALORA, TALK))
    while engine.has_work:
        events += engine.step()
    records = Records()
    records.take(events)
    base = home.alone(make, TALK, None)
    assert same(records["it"], base)
    stats = records["it"].finished.stats
    assert (stats.invoked_at, stats.digest, base.finished.stats.invoked_at) == (UNINVOKED, home.digests[ALORA], None)
    assert [event.invoked_at for event in events if isinstance(event, Progress)][-1] == UNINVOKED
    assert engine.load.on_device == ()


def test_an_adapter_that_is_not_stored_is_told_though_nothing_would_invoke_it(home: Home, make: MakeEngine) -> None:
    engine = make()
    engine.add(Generate("it", adapter=AdapterRef("0" * 64), prompt=TALK, tenant="a"))
    assert drain(engine)["it"].failed.code == "adapter_not_found"


def test_before_its_invocation_a_prompt_is_as_likely_as_the_base_has_it(home: Home, make: MakeEngine) -> None:
    engine = make()
    records = {}
    for id, which in (("base", None), ("warm", ALORA), ("it", ALORA), ("plain", PLAIN)):
        engine.add(home.ask(id, which, prompt_logprobs=2))
        records[id] = drain(engine)[id]
    place = records["it"].finished.stats.invoked_at
    assert place == len(TALK)
    assert records["it"].prompted[: place + 1] == records["base"].prompted[: place + 1]
    assert all(
        one.logprob != other.logprob
        for one, other in zip(records["it"].prompted[place + 1 :], records["base"].prompted[place + 1 :], strict=True)
    )
    assert records["it"].prompted[1] != records["plain"].prompted[1]
    assert same(records["it"], home.alone(make, prompt_logprobs=2))


@pytest.mark.parametrize("changes", [{}, {"prefill_tokens": 32}, {"prefix_cache": "off"}, {"speculation": False}])
def test_a_mixed_batch_answers_as_each_alone(home: Home, make: MakeEngine, changes: dict[str, Any]) -> None:
    """Plain ones, a DoRA, two aLoRAs, a sum and the base, over one prompt and others, whatever is known of them."""
    parts = (Component(home.digests[PLAIN]), Component(home.digests[PLAIN], -0.5))
    composed = AdapterRef(composed_digest((part.digest, part.weight) for part in parts), components=parts)
    total = Generate("sum", adapter=composed, prompt=PROMPT, sampling=home.ask("").sampling, tenant="a")
    wanted = [(f"{which}", home.ask(f"{which}", which)) for which in (PLAIN, DORA, ALORA, OTHER, LONE, None)]
    wanted += [("sum", total), ("again", home.ask("again", ALORA, PROMPT + JUDGE + "!"))]
    expected = {}
    for id, request in wanted:
        engine = make(prefix_cache="off", speculation=False)
        engine.add(request)
        expected[id] = drain(engine)[id]
    engine = make(**changes)
    for _, request in wanted:
        engine.add(request)
    records = drain(engine)
    for id, _ in wanted:
        assert same(records[id], expected[id]), id


def test_a_speculating_answer_has_the_tokens_of_one_that_does_not(home: Home, make: MakeEngine) -> None:
    prompt = "ab" * 30 + JUDGE + "ab" * 10
    engine = make()
    engine.add(home.ask("it", ALORA, prompt, temperature=0.0, max_tokens=40))
    expected = home.alone(make, prompt, temperature=0.0, max_tokens=40)
    assert same(drain(engine)["it"], expected)
    assert engine.load.drafted_tokens > 0


@pytest.mark.parametrize("num_streamed", [1, 7])
def test_another_worker_goes_on_with_the_same_tokens(home: Home, make: MakeEngine, num_streamed: int) -> None:
    expected = home.alone(make)
    engine = make()
    engine.add(home.ask("it"), Resume(tuple(expected.token_ids[:num_streamed]), 0))
    assert drain(engine)["it"].token_ids == expected.token_ids[num_streamed:]


def test_preemption_changes_no_token(home: Home, make: MakeEngine) -> None:
    wanted = {f"{which}": which for which in (PLAIN, ALORA, None, OTHER)}
    expected = {id: home.alone(make, which=which, max_tokens=40) for id, which in wanted.items()}
    engine = make(kv_blocks=18, block_size=16, context_length=200)
    for id, which in wanted.items():
        engine.add(home.ask(id, which, max_tokens=40))
    records = drain(engine)
    assert engine.load.preempted > 0
    for id, record in expected.items():
        assert same(records[id], record)


def test_a_beginning_that_the_base_has_read_is_known_to_each_judge(home: Home, make: MakeEngine) -> None:
    engine = make()
    engine.add(home.ask("base", None, TALK + "and so on", max_tokens=1))
    drain(engine)
    known = len(TALK) // 32 * 32
    for which in (ALORA, OTHER):
        engine.add(home.ask("judge", which))
        record = drain(engine)["judge"]
        assert record.finished.stats.cached_tokens == known
        assert same(record, home.alone(make, which=which))
    engine.add(home.ask("plain", PLAIN))
    assert drain(engine)["plain"].finished.stats.cached_tokens == 0


def test_many_judges_that_come_at_once_read_their_conversation_once(home: Home, make: MakeEngine) -> None:
    """Each computes what follows its invocation, and of what comes before at most the block that this begins in."""
    engine = make(max_rows=24, kv_blocks=256, prefill_tokens=64)
    talk = TALK * 2
    counts = num_rows(engine)
    for n in range(20):
        engine.add(home.ask(f"{n}", (ALORA, OTHER)[n % 2], f"{talk}{JUDGE} {n:02}", max_tokens=1))
    records = drain(engine)
    length = len(talk) + len(home.invocation) + 3
    known = len(talk) // 32 * 32
    assert sum(counts) == known + 20 * (length - known)
    assert same(records["13"], home.alone(make, f"{talk}{JUDGE} 13", OTHER, max_tokens=1))


def test_what_an_adapter_has_read_behind_its_invocation_is_no_others(home: Home, make: MakeEngine) -> None:
    """Nor its own once a later invocation makes those tokens the base's."""
    engine = make()
    answers = {}
    longer = PROMPT + TALK + JUDGE
    for id, which, prompt in (("first", ALORA, PROMPT + TALK), ("other", OTHER, PROMPT + TALK), ("it", ALORA, longer)):
        engine.add(home.ask(id, which, prompt))
        answers[id] = drain(engine)[id]
        assert answers[id].finished.stats.cached_tokens <= len(TALK)
        assert same(answers[id], home.alone(make, prompt, which))
    engine.add(home.ask("base", None, longer))
    assert same(drain(engine)["base"], home.alone(make, longer, None))


def test_a_block_that_was_invoked_at_another_place_is_not_found(home: Home, make: MakeEngine) -> None:
    """Two prompts have one first block, and which invocation is the last is said by what follows it."""
    block = "x" * 5 + JUDGE + "y" * 18 + JUDGE[:-3]
    early, late = block + "mpy" + "z" * 40, block + "dge" + "z" * 40
    engine = make(block_size=32)
    assert len(engine.machine.tokenizer.encode(block)) == 32
    for prompt, place in ((late, 29), (early, 5), (late, 29)):
        engine.add(home.ask("it", ALORA, prompt))
        record = drain(engine)["it"]
        assert record.finished.stats.invoked_at == place
        assert same(record, home.alone(make, prompt))


def test_a_sum_with_an_activated_adapter_is_refused(home: Home, make: MakeEngine) -> None:
    engine = make()
    parts = (Component(home.digests[PLAIN]), Component(home.digests[ALORA], 0.5))
    digest = composed_digest((part.digest, part.weight) for part in parts)
    engine.add(Generate("it", adapter=AdapterRef(digest, components=parts), prompt=PROMPT, tenant="a"))
    failed = drain(engine)["it"].failed
    assert failed.code == "adapter_refused"
    assert "is an aLoRA, active from its invocation on alone, so it cannot be added to others" in failed.error


def test_a_proof_finds_that_it_changes_what_comes_after(home: Home, make: MakeEngine) -> None:
    engine = make()
    for which in (ALORA, LONE):
        engine.add(Probe("it", AdapterRef(home.digests[which])))
        delta = drain(engine)["it"].finished.stats.logit_delta
        assert delta is not None
        assert delta > 0.01
