"""How likely a prompt was: told once, before the answer, and the same whatever else is computed beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.engine.engine import Engine
from inference.wire.contract import Resume, resume_of
from inference.wire.protocol import AdapterRef, Generate, Prompted, Sampling
from tests.inference.conftest import make_adapter, make_model
from tests.inference.engines import VOCAB, Records, assert_nothing_held, drain, make_config, make_tokenizer

pytestmark = pytest.mark.slow

PROMPT = "a prompt of more than two tiles, so that a part of it could be known from another one: ü 日本"
MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    make_tokenizer(make_model(home / "tiny", vocab_size=VOCAB, intermediate_size=128, head_dim=32))
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


def ask(id: str, digest: str = "", prompt: str = PROMPT, **sampling: Any) -> Generate:
    settings = {"max_tokens": 4, "ignore_eos": True, "logprobs": 1, "prompt_logprobs": 2, **sampling}
    return Generate(id, adapter=AdapterRef(digest) if digest else None, prompt=prompt, sampling=Sampling(**settings))


@pytest.mark.parametrize("decoder", ["auto", "torch"])
def test_each_token_of_a_prompt_is_told_as_a_forward_pass_has_it(make: MakeEngine, home: Path, decoder: str):
    from transformers import AutoModelForCausalLM

    engine = make(decoder=decoder)
    engine.add(ask("a"))
    prompted = drain(engine)["a"].prompted
    model = AutoModelForCausalLM.from_pretrained(home / "tiny", dtype=torch.float32).eval()
    ids = torch.tensor([[token.token_id for token in prompted]])
    expected = model(ids).logits[0, :-1].log_softmax(-1)
    told = torch.tensor([token.logprob for token in prompted[1:]])
    assert torch.allclose(told, expected.gather(1, ids[0, 1:, None])[:, 0], atol=1e-3)
    assert [[one.token_id for one in token.top] for token in prompted[1:]] == expected.topk(2).indices.tolist()
    better = (expected > expected.gather(1, ids[0, 1:, None])).sum(-1)
    assert [token.rank for token in prompted[1:]] == (better + 1).tolist()
    assert b"".join(token.data for token in prompted).decode() == PROMPT


def test_a_prompt_that_is_known_or_read_beside_others_is_told_with_the_same_bits(make: MakeEngine, digest: str):
    engine = make()
    engine.add(ask("alone", digest))
    alone = drain(engine)["alone"]
    for id, of in (("again", digest), ("other", ""), ("plain", digest)):
        engine.add(ask(id, of, **({"prompt_logprobs": None} if id == "plain" else {})))
    records = drain(engine)
    assert records["again"].prompted == alone.prompted
    assert records["other"].prompted != alone.prompted
    assert records["plain"].prompted == []
    assert {tuple(records[id].token_ids) for id in ("again", "plain")} == {tuple(alone.token_ids)}


def test_a_prompt_may_be_all_that_is_asked(make: MakeEngine):
    engine = make()
    engine.add(ask("whole"))
    engine.add(ask("none", max_tokens=0))
    records = drain(engine)
    assert records["none"].prompted == records["whole"].prompted
    assert (records["none"].token_ids, records["none"].text) == ([], "")
    assert records["none"].finished.reason == "length"
    assert records["none"].finished.stats.completion_tokens == 0


def test_no_tokens_and_nothing_of_the_prompt_is_refused(make: MakeEngine):
    engine = make()
    engine.add(ask("none", max_tokens=0, prompt_logprobs=None))
    assert drain(engine)["none"].failed.error == "max_tokens is 0; it must be 1 or more, or 0 with prompt_logprobs."


def test_a_prompt_of_one_token_has_nothing_before_it(make: MakeEngine):
    engine = make()
    engine.add(Generate("a", token_ids=(70,), sampling=Sampling(max_tokens=1, prompt_logprobs=0)))
    (first,) = drain(engine)["a"].prompted
    assert (first.token_id, first.logprob, first.top) == (70, 0.0, ())


def test_who_takes_over_tells_only_what_was_not_told(make: MakeEngine):
    engine = make()
    engine.add(ask("a"))
    whole = drain(engine)["a"]
    engine.add(ask("a"), resume_of([Prompted("a", tuple(whole.prompted[:10]))]))
    rest = drain(engine)["a"]
    assert (rest.prompted, rest.token_ids) == (whole.prompted[10:], whole.token_ids)
    engine.add(ask("a"), Resume(tuple(whole.token_ids[:2]), whole.num_chars[1], len(whole.prompted)))
    rest = drain(engine)["a"]
    assert (rest.prompted, rest.token_ids) == ([], whole.token_ids[2:])


def test_a_long_prompt_is_told_in_pieces(make: MakeEngine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("inference.engine.answer.PROMPT_PIECE", 50)
    engine = make()
    engine.add(ask("a", prompt="x" * 120))
    pieces = [event for _ in range(20) for event in engine.step() if isinstance(event, Prompted)]
    assert [len(piece.tokens) for piece in pieces] == [50, 50, 20]


def test_few_rows_of_a_pass_have_logits_however_long_a_pass_may_be(make: MakeEngine, monkeypatch: pytest.MonkeyPatch):
    engine, rows = make(prefill_tokens=1024), []
    compute = engine.machine.runner.decoder.forward

    def counted(batch: Any, cache: Any) -> Any:
        rows.append((len(batch.token_ids), len(batch.sample_rows)))
        return compute(batch, cache)

    monkeypatch.setattr(engine.machine.runner.decoder, "forward", counted)
    for id in "abc":
        engine.add(ask(id, prompt="x" * 200, max_tokens=0))
    engine.add(ask("d", prompt="y" * 200, max_tokens=1, prompt_logprobs=None))
    records = drain(engine)
    assert records["a"].prompted == records["b"].prompted == records["c"].prompted
    assert len(records["a"].prompted) == 200
    assert rows[0][0] > max(num_logits for _, num_logits in rows)
    assert max(num_logits for _, num_logits in rows) <= 8 * 32 + 1


@pytest.mark.parametrize("decoder", ["auto", "torch"])
def test_a_token_is_as_likely_in_a_prompt_as_it_was_in_an_answer(make: MakeEngine, decoder: str):
    engine = make(decoder=decoder, dtype="bfloat16")
    engine.add(ask("answer", max_tokens=20))
    answer = drain(engine)["answer"]
    ids = tuple(token.token_id for token in (*answer.prompted, *answer.logprobs))
    engine.add(Generate("prompt", token_ids=ids, sampling=Sampling(max_tokens=0, prompt_logprobs=0)))
    told = drain(engine)["prompt"].prompted
    tolerance = 0.0 if engine.machine.runner.decoder.rows_are_uniform else 0.05
    for one, other in zip(told, (*answer.prompted, *answer.logprobs), strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=tolerance)


def test_ids_are_taken_as_they_are(make: MakeEngine):
    engine = make()
    engine.add(ask("text", prompt_logprobs=0))
    ids = tuple(token.token_id for token in drain(engine)["text"].prompted)
    engine.add(Generate("ids", token_ids=ids, sampling=Sampling(max_tokens=4, ignore_eos=True)))
    engine.add(ask("text", prompt_logprobs=None))
    records = drain(engine)
    assert records["ids"].token_ids == records["text"].token_ids


@pytest.mark.parametrize(("ids", "place", "given"), [((5, VOCAB), 1, VOCAB), ((-1,), 0, -1), ((2, 3, True), 2, True)])
def test_an_id_that_no_token_has_is_named(make: MakeEngine, ids: tuple[int, ...], place: int, given: object):
    engine = make()
    engine.add(Generate("a", token_ids=ids))
    sentence = f"Token {place} of the prompt is {given!r}; ids are whole numbers from 0 to {VOCAB - 1}."
    assert drain(engine)["a"].failed.error == sentence


def test_answers_of_one_call_read_their_prompt_once(make: MakeEngine, monkeypatch: pytest.MonkeyPatch):
    def num_read(*groups: str) -> int:
        engine, rows = make(), 0
        compute = engine.machine.runner.decoder.forward

        def counted(batch: Any, cache: Any) -> Any:
            nonlocal rows
            rows += sum(segment.length for segment in batch.tiles)
            return compute(batch, cache)

        monkeypatch.setattr(engine.machine.runner.decoder, "forward", counted)
        for number, group in enumerate(groups):
            settings = Sampling(max_tokens=6, temperature=1.0, seed=number, ignore_eos=True)
            engine.add(
                Generate(f"{number}", prompt=PROMPT * 2, sampling=settings, owner="me", tenant="me", group=group)
            )
        texts.append([record.token_ids for _, record in sorted(drain(engine).items())])
        return rows

    texts: list[list[list[int]]] = []
    one, together, apart = num_read("call"), num_read(*["call"] * 4), num_read(*"abcd")
    assert one <= together < min(2 * one, apart)
    assert texts[1] == texts[2]


@pytest.mark.parametrize("prefix_cache", ["on", "off"])
def test_a_reader_that_is_preempted_keeps_nobody_waiting(make: MakeEngine, prefix_cache: str):
    engine = make(prefill_tokens=32, prefix_cache=prefix_cache)
    for id in "abc":
        engine.add(Generate(id, prompt=PROMPT * 2, sampling=Sampling(max_tokens=2), owner="me", group="call"))
    engine.step()
    assert len(engine.scheduler.running) == (1 if prefix_cache == "on" else 3)
    engine.scheduler.preempt(engine.scheduler.running[0])
    records = drain(engine, Records())
    assert all(records[id].finished for id in "abc")
    assert len({tuple(record.token_ids) for record in records.values()}) == 1


def test_who_tells_the_whole_prompt_waits_for_nobody(make: MakeEngine):
    engine = make(prefill_tokens=32)
    for id in "ab":
        scored = Sampling(max_tokens=1, prompt_logprobs=0)
        engine.add(Generate(id, prompt=PROMPT * 2, sampling=scored, owner="me", group="call"))
    engine.step()
    assert len(engine.scheduler.running) == 2
    records = drain(engine, Records())
    assert records["a"].prompted == records["b"].prompted


def test_a_reader_that_is_aborted_leaves_the_prompt_to_the_next(make: MakeEngine):
    engine = make(prefill_tokens=32)
    for id in "ab":
        engine.add(Generate(id, prompt=PROMPT * 2, sampling=Sampling(max_tokens=2), owner="me", group="call"))
    engine.step()
    engine.abort("a")
    assert drain(engine, Records())["b"].finished
