"""The engine over a decoder that answers with a hash of what it reads: whatever is mixed up shows in the text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from inference.engine.answer import StopStrings
from inference.engine.engine import Engine
from inference.engine.sampler import derived_seed
from inference.scheduling.scheduler import LOOK_AHEAD
from inference.scheduling.sequence import State
from inference.wire.contract import Resume
from inference.wire.protocol import AdapterRef, Delta, Failed, Finished, Generate, Message, Probe, Progress, Sampling
from tests.inference.engines import (
    EOS,
    ReadingDecoder,
    Records,
    assert_nothing_held,
    drain,
    expected_answer,
    make_reading_engine,
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = make_reading_engine(tmp_path)
    yield engine
    engine.close()


def ask(id: str, prompt: str = "tell me", digest: str = "", **sampling: Any) -> Generate:
    adapter = AdapterRef(digest) if digest else None
    return Generate(id, adapter=adapter, prompt=prompt, sampling=Sampling(**{"max_tokens": 20, **sampling}))


def answer_to(engine: Engine, request: Generate, resume: Resume | None = None) -> Any:
    engine.add(request, resume)
    return drain(engine)[request.id]


def expect(engine: Engine, request: Generate) -> list[int]:
    assert request.prompt is not None
    digest = request.adapter.digest if request.adapter else ""
    return expected_answer(engine.machine.tokenizer.encode(request.prompt), digest, request.sampling.max_tokens)


def test_an_answer_is_told_from_start_to_end(engine: Engine) -> None:
    request = Generate("a", prompt="tell me", sampling=Sampling(max_tokens=20), created=time.time() - 1)
    record = answer_to(engine, request)
    assert record.token_ids == expect(engine, request)
    assert record.text.rstrip("\ufffd") == engine.machine.tokenizer.decode(record.token_ids).rstrip("\ufffd")
    assert record.states == ["running"]
    stats = record.finished.stats
    assert (stats.prompt_tokens, stats.completion_tokens, stats.digest) == (7, len(record.token_ids), "")
    assert (stats.fingerprint, stats.seed, stats.takeovers) == (engine.fingerprint, derived_seed("a"), 0)
    assert stats.total_ms >= stats.first_token_ms >= stats.queue_ms >= 1000
    assert stats.tokens_per_second > 0
    assert_nothing_held(engine)


def test_a_mixed_crowd_gets_what_each_would_get_alone(engine: Engine) -> None:
    requests = [ask(f"{n}", "word " * (1 + 7 * n % 30), ("", "A", "B", "C", "D")[n % 5]) for n in range(20)]
    for request in requests:
        engine.add(request)
    records = drain(engine)
    for request in requests:
        assert records[request.id].token_ids == expect(engine, request)
        assert records[request.id].finished.stats.digest == (request.adapter.digest if request.adapter else "")
    assert_nothing_held(engine)


def test_an_answer_ends_at_its_length_or_its_own_end(engine: Engine) -> None:
    reasons = set()
    for n in range(12):
        record = answer_to(engine, ask(f"{n}", f"prompt {n}", max_tokens=40))
        reasons.add(record.finished.reason)
        assert (record.token_ids[-1] == EOS) == (record.finished.reason == "done")
        assert record.finished.reason == "done" or len(record.token_ids) == 40
    assert reasons == {"done", "length"}


def test_the_end_can_be_ignored_or_put_off(engine: Engine) -> None:
    prompt = next(f"p{n}" for n in range(100) if len(expect(engine, ask("x", f"p{n}"))) < 6)
    ended = answer_to(engine, ask("a", prompt))
    assert ended.finished.reason == "done"
    ignored = answer_to(engine, ask("b", prompt, ignore_eos=True))
    assert ignored.finished.reason == "length"
    assert ignored.token_ids[: len(ended.token_ids)] == ended.token_ids
    put_off = answer_to(engine, ask("c", prompt, min_tokens=10))
    assert len(put_off.token_ids) >= 10
    assert EOS not in put_off.token_ids[:10]


def test_max_tokens_is_cut_to_what_the_context_leaves(engine: Engine) -> None:
    record = answer_to(engine, ask("a", "x" * 250, max_tokens=100, ignore_eos=True))
    assert (len(record.token_ids), record.finished.reason) == (6, "length")


def test_a_bad_request_ends_in_a_sentence(engine: Engine) -> None:
    engine.add(ask("long", "x" * 300))
    engine.add(ask("hot", temperature=-1))
    engine.add(Generate("empty"))
    records = drain(engine)
    assert records["long"].failed.code == "prompt_too_long"
    assert "temperature is -1" in records["hot"].failed.error
    assert records["empty"].failed.code == "invalid_request"
    assert_nothing_held(engine)


def test_an_adapter_that_is_not_here_ends_its_requests_and_no_others(engine: Engine) -> None:
    for request in (ask("a", digest="missing-1"), ask("b", digest="missing-1"), ask("c", digest="B"), ask("d")):
        engine.add(request)
    records = drain(engine)
    for id in "ab":
        assert records[id].failed.code == "adapter_not_found"
        assert "missing-1" in records[id].failed.error
    assert records["c"].finished
    assert records["d"].finished
    assert_nothing_held(engine)


def test_an_adapter_that_is_in_memory_starts_in_the_next_step(engine: Engine) -> None:
    answer_to(engine, ask("first", digest="A"))
    engine.add(ask("second", digest="A"))
    records = Records()
    records.take(engine.step())
    assert records["second"].states == ["running"]
    assert len(records["second"].token_ids) >= 1


def test_loading_is_told_and_others_go_on_meanwhile(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    load = engine.machine.loader._load
    monkeypatch.setattr(engine.machine.loader, "_load", lambda *wanted: time.sleep(0.2) or load(*wanted))
    engine.add(ask("base", ignore_eos=True, max_tokens=5))
    engine.add(ask("a", digest="A"))
    records = Records()
    while not records.get("base") or not records["base"].ends:
        records.take(engine.step())
    assert records["a"].states == ["loading"]
    drain(engine, records)
    assert records["a"].states == ["loading", "running"]
    assert records["a"].finished.stats.load_ms >= 200


def test_a_stopped_answer_ends_with_what_it_has(engine: Engine) -> None:
    engine.add(ask("a", ignore_eos=True, max_tokens=200))
    records = Records()
    for _ in range(5):
        records.take(engine.step())
    engine.stop("a")
    engine.stop("a")
    drain(engine, records)
    assert records["a"].finished.reason == "stopped"
    assert records["a"].finished.stats.completion_tokens == len(records["a"].token_ids) == 5
    assert_nothing_held(engine)


@pytest.mark.parametrize("steps", range(8))
def test_an_aborted_request_is_forgotten_at_any_moment(engine: Engine, steps: int) -> None:
    others = [ask("b", "other", "B"), ask("c", "more")]
    for request in (ask("a", "long " * 40, "A"), *others):
        engine.add(request)
    records = Records()
    for _ in range(steps):
        records.take(engine.step())
    engine.abort("a")
    engine.abort("a")
    if "a" in records:
        records["a"].ends = [Failed("a", "aborted", "")]  # so that any later word of it is an error
    drain(engine, records)
    for request in others:
        assert records[request.id].token_ids == expect(engine, request)
    assert_nothing_held(engine)


def test_an_unknown_id_can_be_stopped_and_aborted(engine: Engine) -> None:
    engine.stop("nobody")
    engine.abort("nobody")
    assert not engine.has_work


@pytest.mark.parametrize("seen", range(21))
def test_a_takeover_at_any_token_gives_the_undisturbed_answer(engine: Engine, seen: int) -> None:
    request = ask("a", "x" * 70, "A", stop=("zz",), ignore_eos=True)
    whole = answer_to(engine, request)
    assert len(whole.token_ids) == 20
    num_chars = whole.num_chars[seen - 1] if seen else 0
    rest = answer_to(engine, request, Resume(tuple(whole.token_ids[:seen]), num_chars))
    assert rest.token_ids == whole.token_ids[seen:]
    assert whole.text[:num_chars] + rest.text == whole.text
    assert rest.finished.reason == whole.finished.reason
    assert (rest.finished.stats.takeovers, rest.finished.stats.completion_tokens) == (1, 20)
    assert_nothing_held(engine)


def test_text_that_was_streamed_behind_its_tokens_is_not_lost(engine: Engine) -> None:
    request = ask("a", "some prompt", ignore_eos=True)
    whole = answer_to(engine, request)
    rest = answer_to(engine, request, Resume(tuple(whole.token_ids[:9]), 2))
    assert whole.text[:2] + rest.text == whole.text


def test_running_out_of_blocks_changes_no_answer(tmp_path: Path) -> None:
    engine = make_reading_engine(tmp_path, num_blocks=9, context_length=144)
    requests = [ask(f"{n}", "ab" * (3 + n), ("", "A")[n % 2], max_tokens=60, ignore_eos=True) for n in range(6)]
    for request in requests:
        engine.add(request)
    records = drain(engine)
    for request in requests:
        prompt = engine.machine.tokenizer.encode(request.prompt or "")
        assert len(records[request.id].token_ids) == 60
        digest = request.adapter.digest if request.adapter else ""
        first = expected_answer(prompt, digest, 60)
        assert records[request.id].token_ids[: len(first)] == first
    assert_nothing_held(engine)
    engine.close()


def test_more_adapters_than_slots_is_normal_traffic(engine: Engine) -> None:
    requests = [ask(f"{n}", f"p{n}", f"adapter-{n * 5 % 9}", max_tokens=5 + n % 9) for n in range(60)]
    waiting, records, passed = list(requests), Records(), []
    while waiting or engine.has_work:
        while waiting and engine.capacity.total:
            engine.add(waiting.pop(0))
        records.take(engine.step())
        passed += [sequence.num_passed for sequence in engine.scheduler.waiting]
    for request in requests:
        assert records[request.id].token_ids == expect(engine, request)
    assert max(passed) <= 4
    assert_nothing_held(engine)


def test_room_shrinks_and_comes_back(engine: Engine) -> None:
    capacity, count = engine.capacity, 0
    while engine.capacity.total:
        engine.add(ask(f"{count}"))
        count += 1
    assert count == 8 + LOOK_AHEAD
    drain(engine)
    assert engine.capacity == capacity


@pytest.mark.parametrize(
    "failure", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_a_full_device_ends_one_request_and_the_engine_lives_on(engine: Engine, failure: Exception) -> None:
    decoder = engine.machine.runner.decoder
    assert isinstance(decoder, ReadingDecoder)
    small, big = ask("small"), ask("big", "x" * 200)
    engine.add(small)
    records = Records()
    records.take(engine.step())
    engine.add(big)
    decoder.failure = failure
    drain(engine, records)
    assert records["big"].failed.code == "out_of_memory"
    assert records["small"].token_ids == expect(engine, small)
    assert_nothing_held(engine)
    assert answer_to(engine, ask("big", "x" * 200)).token_ids == expect(engine, big)


def test_a_full_device_ends_the_request_whose_adapter_found_no_room(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(slot: int, weights: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(engine.machine.slots.bank, "put", refuse)
    engine.add(ask("a", digest="A"))
    engine.add(ask("b"))
    records = drain(engine)
    assert records["a"].failed.code == "out_of_memory"
    assert records["b"].finished
    assert_nothing_held(engine)


def test_who_started_before_an_adapter_found_no_room_is_told_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.machine.slots.bank, "put", Mock(side_effect=torch.OutOfMemoryError))
    engine.machine.host_cache.load("A")
    engine.add(ask("a"))
    engine.add(ask("b", digest="A"))
    engine.add(ask("gone"))
    records = Records()
    records.take(engine.step())
    engine.abort("gone")
    drain(engine, records)
    assert records["b"].failed.code == "out_of_memory"
    assert records["a"].states == ["running"]
    assert records["a"].finished
    assert "gone" not in records


def test_a_full_device_spares_an_older_request_whose_adapter_is_still_loading(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.add(ask("old", digest="A"))
    engine.add(ask("young", digest="B"))
    waiting = engine.scheduler.waiting
    waiting[1].state = State.WAITING
    monkeypatch.setattr(engine.machine.loader, "poll", lambda timeout: [])
    monkeypatch.setattr(engine.machine.slots, "acquire", Mock(side_effect=torch.OutOfMemoryError))
    records = Records()
    records.take(engine.step())
    monkeypatch.undo()
    drain(engine, records)
    assert records["young"].failed.code == "out_of_memory"
    assert records["old"].finished


@pytest.mark.parametrize(
    "failure", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_an_adapter_that_does_not_fit_into_memory_ends_its_own_request(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    monkeypatch.setattr(engine.machine.loader, "_load", Mock(side_effect=failure))
    engine.add(ask("a", digest="A"))
    engine.add(ask("b"))
    records = drain(engine)
    assert records["a"].failed.code == "out_of_memory"
    assert records["b"].finished
    assert_nothing_held(engine)


def test_a_defect_is_not_swallowed(engine: Engine) -> None:
    decoder = engine.machine.runner.decoder
    assert isinstance(decoder, ReadingDecoder)
    decoder.failure = RuntimeError("shapes do not match")
    engine.add(ask("a"))
    with pytest.raises(RuntimeError, match="shapes"):
        drain(engine)


def test_numbers_that_are_not_finite_end_their_own_request(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = engine.machine.runner.decoder.forward

    def broken(batch: Any, *others: Any) -> Any:
        logits = forward(batch, *others)
        logits[batch.adapter_slots[batch.sample_rows] >= 0] = float("nan")
        return logits

    monkeypatch.setattr(engine.machine.runner.decoder, "forward", broken)
    for request in (ask("a", digest="A"), ask("b")):
        engine.add(request)
    engine.add(Probe("p", AdapterRef("B")))
    records = drain(engine)
    assert "not finite" in records["a"].failed.error
    assert (records["p"].failed.code, "not finite" in records["p"].failed.error) == ("adapter_refused", True)
    assert records["b"].token_ids == expect(engine, ask("b"))
    assert_nothing_held(engine)


def test_a_probe_tells_what_an_adapter_changes(engine: Engine) -> None:
    engine.add(Probe("p", AdapterRef("A")))
    record = drain(engine)["p"]
    assert record.finished.stats.logit_delta == 8.0
    assert (record.finished.stats.digest, record.text, record.token_ids) == ("A", "", [])
    assert_nothing_held(engine)


def test_a_probe_of_an_adapter_without_effect_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.machine.runner.decoder, "_digest_of", lambda slot: "the same")
    engine.add(Probe("p", AdapterRef("A")))
    failed = drain(engine)["p"].failed
    assert failed.code == "adapter_refused"
    assert "changes nothing" in failed.error
    assert_nothing_held(engine)


def test_a_proof_that_a_program_waits_for_reads_on_where_its_beginning_says_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter of one token's row, say, that stands later in the canary."""
    runner, decoder = engine.machine.runner, engine.machine.runner.decoder
    monkeypatch.setattr(decoder, "rows_are_uniform", True)
    engine.add(Probe("p", AdapterRef("A"), is_awaited=True))
    assert drain(engine)["p"].finished.stats.prompt_tokens == 2
    forward = decoder.forward

    def blind(batch: Any, *others: Any) -> Any:
        logits = forward(batch, *others)
        logits[batch.positions[batch.sample_rows] < 3] = 0.0
        return logits

    runner._canary_logits.clear()
    monkeypatch.setattr(decoder, "forward", blind)
    engine.add(Probe("q", AdapterRef("A"), is_awaited=True))
    stats = drain(engine)["q"].finished.stats
    assert (stats.prompt_tokens, stats.logit_delta) == (len(runner.canary_ids), 8.0)
    runner._canary_logits.clear()
    monkeypatch.setattr(decoder, "_digest_of", lambda slot: "the same")
    engine.add(Probe("r", AdapterRef("A"), is_awaited=True))
    assert "changes nothing" in drain(engine)["r"].failed.error
    assert_nothing_held(engine)


def test_logprobs_come_with_their_tokens(engine: Engine) -> None:
    record = answer_to(engine, ask("a", logprobs=2, max_tokens=6, ignore_eos=True))
    assert [token.token_id for token in record.logprobs] == record.token_ids
    assert all(len(token.top) == 2 and token.top[0].logprob == token.logprob < 0 for token in record.logprobs)


def test_a_chat_that_lost_turns_says_so(engine: Engine) -> None:
    messages = tuple(Message(("user", "assistant")[n % 2], "word " * 12) for n in range(7))
    engine.add(Generate("a", messages=messages, sampling=Sampling(max_tokens=4)))
    assert drain(engine)["a"].finished.stats.dropped_turns == 4


def test_its_load_tells_what_is_where(engine: Engine) -> None:
    engine.add(ask("a", digest="A"))
    while not engine.scheduler.running:
        engine.step()
    load = engine.load
    assert (load.on_device, load.in_host, load.running) == (("A",), ("A",), 1)
    assert load.free_blocks < load.total_blocks
    drain(engine)


def test_events_are_of_the_wire(engine: Engine) -> None:
    engine.add(ask("a", max_tokens=2, ignore_eos=True))
    kinds = [type(event) for _ in range(3) for event in engine.step()]
    assert kinds == [Progress, Delta, Delta, Finished]


def feed(pieces: list[str], *strings: str) -> tuple[list[str], bool, str]:
    stops = StopStrings(strings)
    shown = [stops.push(piece) for piece in pieces]
    return shown, stops.is_found, stops.flush()


def test_a_stop_string_is_found_across_pieces_and_never_shown() -> None:
    assert feed(["ab", "c#", "#", "# more"], "###") == (["ab", "c", "", ""], True, "")


def test_what_might_begin_a_stop_string_waits_until_it_does_not() -> None:
    assert feed(["a#", "#b", "#"], "###") == (["a", "##b", ""], False, "#")


def test_the_first_of_several_stop_strings_counts() -> None:
    assert feed(["say END or STOP"], "STOP", "END") == (["say "], True, "")
    assert feed(["xaa", "b"], "aabd", "ab") == (["x", "a"], True, "")


def test_an_answer_ends_before_its_stop_string(engine: Engine) -> None:
    request = ask("a", "stop here", ignore_eos=True, max_tokens=60)
    whole = answer_to(engine, request)
    middle = len(whole.text) // 2
    string = whole.text[middle : middle + 3]
    cut = answer_to(engine, ask("b", "stop here", ignore_eos=True, max_tokens=60, stop=(string,)))
    assert cut.finished.reason == "done"
    assert cut.text == whole.text[: whole.text.index(string)]


def test_stop_strings_wait_for_the_least_number_of_tokens(engine: Engine) -> None:
    settings = {"ignore_eos": True, "max_tokens": 60, "min_tokens": 60}
    whole = answer_to(engine, ask("a", **settings))
    late = answer_to(engine, ask("b", **settings, stop=(whole.text[10:12],)))
    assert late.text == whole.text
