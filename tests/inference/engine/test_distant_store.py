"""A worker whose adapters lie in a store elsewhere: the same tokens, and what is away or damaged is nobody's fault."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from inference.adapters.examination import WEIGHTS
from inference.adapters.identity import composed_digest
from inference.adapters.stored import FILES
from inference.engine import incoming
from inference.engine.engine import Engine
from inference.model.tokenizer import Tokenizer
from inference.objects import failures
from inference.objects.address import Address
from inference.objects.filesystem import filesystem
from inference.objects.store import ObjectStore
from inference.wire.contract import Resume
from inference.wire.protocol import AdapterRef, Component, Failed, Generate, Probe, Sampling
from tests.inference.checkpoints import make_adapter, make_model
from tests.inference.engines import VOCAB, Record, drain, make_config, make_tokenizer
from tests.object_server import ObjectServer
from tests.patience import PATIENCE

JUDGE = "<|start|>judge"
SHORT = Sampling(max_tokens=6, temperature=1.5, seed=5, ignore_eos=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(make_model(tmp_path_factory.mktemp("model"), vocab_size=VOCAB + 2, eos_token_id=0))


@pytest.fixture(scope="module")
def first_host(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Where adapters were made, and their digests; the third is active from its invocation on alone."""
    store = tmp_path_factory.mktemp("first") / "adapters"
    store.mkdir()
    invocation: dict[str, Any] = {"alora_invocation_tokens": Tokenizer(model).encode(JUDGE), "task_type": "CAUSAL_LM"}
    return store, [
        make_adapter(model, store, 1),
        make_adapter(model, store, 2),
        make_adapter(model, store, 3, **invocation),
    ]


@pytest.fixture
def address(
    object_server: ObjectServer, first_host: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> Address:
    """A store with all of them."""
    monkeypatch.setattr(failures, "PAUSES", [])
    address, (folder, digests) = object_server.new_store(), first_host
    for digest in digests:
        ObjectStore(address).put(digest, folder / digest, FILES)
    return address


Open = Callable[..., Engine]


@pytest.fixture
def open_engine(model: Path, address: Address, tmp_path: Path) -> Iterator[Open]:
    """An engine of another host, with nothing but the address."""
    opened = []

    def make(**changes: Any) -> Engine:
        config = make_config(model, tmp_path / "second" / "adapters", adapter_store=address, **changes)
        opened.append(Engine(config))
        return opened[-1]

    yield make
    for engine in opened:
        engine.close()


def question(id: str, digest: str, prompt: str = "the ferry", **more: Any) -> Generate:
    return Generate(id, AdapterRef(digest, **more), prompt=f"{prompt} {JUDGE}", sampling=SHORT)


def answers(engine: Engine, *requests: Generate | Probe) -> dict[str, Record]:
    for request in requests:
        engine.add(request)
    return drain(engine)


def tokens(records: dict[str, Record]) -> dict[str, list[int]]:
    return {id: record.token_ids for id, record in records.items() if record.finished}


def test_answers_are_those_of_a_host_that_has_the_files(
    model: Path, first_host: tuple[Path, list[str]], open_engine: Open
) -> None:
    store, digests = first_host
    sum_of = composed_digest([(digests[0], 1.0), (digests[1], 0.5)])
    parts = (Component(digests[0], 1.0), Component(digests[1], 0.5))
    asked = [
        *(question(f"{at}", digest) for at, digest in enumerate(digests)),
        question("same", digests[0], "another"),
        question("sum", sum_of, components=parts),
        Generate("base", prompt=f"the ferry {JUDGE}", sampling=SHORT),
    ]
    here = Engine(make_config(model, store))
    told, there = answers(here, *asked), answers(open_engine(), *asked)
    here.close()
    assert tokens(there) == tokens(told)
    assert there["2"].finished.stats.invoked_at == told["2"].finished.stats.invoked_at == len("the ferry ")
    assert there["0"].states[0] == "loading"


def test_of_a_sum_its_parts_alone_are_looked_for(
    open_engine: Open, first_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real, (one, other, _) = list[str](), ObjectStore.manifest, first_host[1]

    def manifest(objects: ObjectStore, folder: str) -> Any:
        asked.append(folder)
        return real(objects, folder)

    monkeypatch.setattr(ObjectStore, "manifest", manifest)
    parts = (Component(one, 1.0), Component(other, 0.5))
    asking = question("sum", composed_digest([(one, 1.0), (other, 0.5)]), components=parts)
    assert answers(open_engine(), asking)["sum"].finished
    assert sorted(asked) == sorted([one, other])


def test_a_second_worker_of_the_host_fetches_nothing(open_engine: Open, address: Address, first_host: Any) -> None:
    before = tokens(answers(open_engine(), question("a", first_host[1][0])))
    ObjectStore(address).remove(first_host[1][0])
    assert tokens(answers(open_engine(), question("a", first_host[1][0]))) == before


def test_a_probe_proves_what_lies_elsewhere(open_engine: Open, first_host: Any) -> None:
    record = answers(open_engine(), Probe("p", AdapterRef(first_host[1][0])))["p"]
    assert record.finished.reason == "done"


def test_while_the_store_is_away_what_is_here_answers_and_the_rest_when_it_is_back(
    open_engine: Open, first_host: Any, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, (here, elsewhere, _) = open_engine(), first_host[1]
    before = tokens(answers(engine, question("a", here)))
    object_server.leave()
    try:
        records = answers(engine, question("a", here), question("b", elsewhere), Probe("p", AdapterRef(elsewhere)))
    finally:
        object_server.come_back()
    assert records["a"].token_ids == before["a"]
    assert {records["b"].failed.code, records["p"].failed.code} == {"unavailable"}
    assert "try again" in records["b"].failed.error
    assert object_server.url not in records["b"].failed.error
    assert answers(engine, question("c", elsewhere))["c"].failed.code == "unavailable"
    monkeypatch.setattr(incoming, "AWAY_SECONDS", 0.0)
    assert answers(engine, question("b", elsewhere))["b"].finished


def test_what_is_damaged_or_missing_in_the_store_is_refused_and_answers_once_repaired(
    open_engine: Open, first_host: Any, address: Address
) -> None:
    engine, (store, (damaged, gone, whole)) = open_engine(), first_host
    objects = ObjectStore(address)
    (path,) = [path for path in objects._objects(damaged) if path.endswith(".safetensors")]
    data = filesystem(address).cat_file(path)
    filesystem(address).pipe_file(path, data[:-1] + bytes([data[-1] ^ 1]))
    objects.remove(gone)
    asked = [question("damaged", damaged), question("gone", gone), question("whole", whole)]
    records = answers(engine, *asked)
    assert records["damaged"].failed.code == records["gone"].failed.code == "adapter_not_found"
    assert "is damaged; import it again" in records["damaged"].failed.error
    assert "is not stored" in records["gone"].failed.error
    assert records["whole"].finished
    objects.put(damaged, store / damaged, FILES, replaces=True)
    assert answers(engine, question("damaged", damaged))["damaged"].finished


def test_a_folder_under_a_wrong_digest_is_never_served(open_engine: Open, first_host: Any, address: Address) -> None:
    store, (one, other, _) = first_host
    ObjectStore(address).put("f" * 64, store / one, FILES)
    ObjectStore(address).put(other, store / one, FILES, replaces=True)
    records = answers(open_engine(), question("a", "f" * 64), question("b", other))
    assert "is damaged" in records["a"].failed.error
    assert "is damaged" in records["b"].failed.error


def test_one_that_is_stopped_or_forgotten_while_it_is_fetched_ends_so(open_engine: Open, first_host: Any) -> None:
    engine = open_engine()
    room = engine.capacity.total
    engine.add(question("stopped", first_host[1][0]))
    engine.add(question("forgotten", first_host[1][1]))
    assert engine.has_work
    assert engine.capacity.total == room - 2
    engine.stop("stopped")
    engine.abort("forgotten")
    records = drain(engine)
    assert records["stopped"].finished.reason == "stopped"
    assert not records.get("forgotten", Record()).ends
    assert engine.capacity.total == room


class Hanging:
    """Fetches that do not end until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.are_let_go, self.have_waited = Event(), list[bool]()
        real = ObjectStore.fetch

        def fetch(objects: ObjectStore, folder: str, into: Path) -> Any:
            self.have_waited.append(self.are_let_go.wait(PATIENCE))
            return real(objects, folder, into)

        monkeypatch.setattr(ObjectStore, "fetch", fetch)


def test_a_stop_waits_for_no_fetch_and_others_go_on(
    open_engine: Open, first_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, fetches, (one, other, _) = open_engine(), Hanging(monkeypatch), first_host[1]
    engine.add(question("new", one))
    engine.add(question("resumed", other), Resume(token_ids=(5, 6, 7), num_chars=3))
    engine.step()
    engine.stop("new")
    engine.stop("resumed")
    records = answers(engine, Generate("base", prompt="the ferry", sampling=SHORT))
    assert fetches.have_waited == []
    fetches.are_let_go.set()
    assert records["base"].finished
    ends = [records[id].finished for id in ("new", "resumed")]
    told = [(end.reason, end.stats.completion_tokens, end.stats.takeovers) for end in ends]
    assert told == [("stopped", 0, 0), ("stopped", 3, 1)]
    assert [end.stats.digest for end in ends] == [one, other]


def test_whose_first_token_is_overdue_waits_for_no_fetch_and_is_refused(
    open_engine: Open, first_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, fetches, (one, other, _) = open_engine(), Hanging(monkeypatch), first_host[1]
    hurried = replace(SHORT, first_token_within=5.0)
    engine.add(replace(question("late", one), sampling=hurried, created=time.time() - 60))
    engine.add(
        replace(question("in time", other), sampling=replace(SHORT, first_token_within=1e6), created=time.time())
    )
    resume = Resume(token_ids=(5, 6, 7), num_chars=3)
    engine.add(replace(question("begun", one), sampling=hurried, created=time.time() - 60), resume)
    failed = next(event for event in engine.step() if isinstance(event, Failed))
    assert (failed.id, failed.code, failed.retry_after >= 1) == ("late", "too_late", True)
    assert "within 5 s" in failed.error
    fetches.are_let_go.set()
    assert tokens(drain(engine)).keys() == {"in time", "begun"}


def test_while_the_store_hangs_there_is_room_for_what_is_here(
    open_engine: Open, first_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine()
    room, fetches = engine.capacity.total, Hanging(monkeypatch)
    for number in range(room + 1):
        engine.add(question(f"{number}", first_host[1][number % 3]))
    assert engine.capacity.total == room - room // 2
    fetches.are_let_go.set()
    assert len(tokens(drain(engine))) == room + 1


def test_a_disk_that_fails_is_no_fault_of_the_adapter(
    open_engine: Open, first_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    engine, digest = open_engine(), first_host[1][0]
    with monkeypatch.context() as failing:
        failing.setattr(ObjectStore, "fetch", fail)
        record = answers(engine, question("a", digest))["a"]
    assert record.failed.code == "unavailable"
    assert "cannot get the adapter onto its disk" in record.failed.error
    assert answers(engine, question("b", digest))["b"].finished


def test_a_copy_that_its_disk_has_changed_comes_anew(open_engine: Open, first_host: Any, tmp_path: Path) -> None:
    digest = first_host[1][0]
    before = tokens(answers(open_engine(), question("a", digest)))
    copy = tmp_path / "second" / "adapter_cache" / digest
    data = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert tokens(answers(open_engine(), question("a", digest))) == before
    assert (copy / WEIGHTS).read_bytes() == data


def test_more_adapters_than_the_disk_may_keep_all_answer(open_engine: Open, first_host: Any, tmp_path: Path) -> None:
    """With room for hardly one each is fetched anew, and every answer is as before."""
    engine = open_engine(adapter_cache_mb=1)
    asked = [question(f"{turn}{digest[:8]}", digest) for turn in range(2) for digest in first_host[1]]
    records = answers(engine, *asked)
    by_digest: dict[str, set[tuple[int, ...]]] = {}
    for id, record in records.items():
        by_digest.setdefault(id[1:], set()).add(tuple(record.token_ids))
    assert all(len(found) == 1 for found in by_digest.values())


def test_fetching_keeps_nobody_waiting_who_has_all(open_engine: Open, first_host: Any) -> None:
    engine = open_engine()
    machine, digest = engine.machine, first_host[1][0]
    real = machine.incoming._fetch

    def slow(wanted: str) -> None:
        time.sleep(0.3)
        real(wanted)

    machine.incoming._fetch = slow
    engine.add(question("far", digest))
    engine.add(Generate("base", prompt="the ferry", sampling=SHORT))
    seen: list[str] = []
    while engine.has_work:
        seen += [event.id for event in engine.step() if hasattr(event, "reason")]
    assert seen == ["base", "far"]
