"""From trained files to a published adapter: examined and proved as an upload, measured, and hidden until published."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.test import Client

from inference.tasks.card import write_card
from inference.tasks.vectors import embedding_of
from inference.wire.protocol import Delta, Event, Failed, Finished, Generate, Probe, Stats
from loraland.catalogue.embeddings import InputEmbedding
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.evals.models import Run
from loraland.training import drafting, slices
from loraland.training.drafting import examine
from loraland.training.models import Training
from loraland.training.slices import MOST_SETBACKS, NO_WORKER, measure
from tests.loraland.adapter_files import lora_config, lora_tensors, write_adapter
from tests.patience import patiently

pytestmark = pytest.mark.django_db(transaction=True)
Plan = Callable[..., Training]


@pytest.fixture
def trained(plan: Plan, adapter_store: Path, probes: list[Probe]) -> Callable[..., Training]:
    """`trained(seed)` is a training whose files have come."""

    def run(seed: int = 0, damaged: bool = False, **fields: Any) -> Training:
        training = plan(state="examining", rows=44, minutes=1.5, **fields)
        write_adapter(training.folder / "out", seed=seed, tensors=b"" if damaged else None)
        return training

    return run


def prove(training: Training) -> Training:
    """Let a worker find that the draft changes the base."""
    version = training.version
    assert version is not None
    version.refresh_from_db()
    version.record_proof(Finished(version.probe_id, "done", Stats(logit_delta=1.5)))
    examine(training)
    return Training.objects.select_related("data", "version__adapter", "created_by").get(pk=training.pk)


def test_trained_files_become_a_proven_draft_that_nobody_sees(trained: Callable[..., Training], client: Client) -> None:
    training = trained()
    examine(training)
    assert training.state == "examining"
    training = prove(training)
    version = training.version
    assert version is not None
    assert (training.state, version.status, version.publish_when_ready) == ("measuring", "ready", False)
    assert (version.adapter.slug, version.adapter.name, version.fields[0]["name"]) == ("moods", "Moods", "text")
    assert version.training["steps"] == 40
    assert not Adapter.objects.published().exists()
    assert client.get("/adapters/moods/").status_code == 404


def test_what_its_rows_look_like_comes_with_the_draft(trained: Callable[..., Training]) -> None:
    training, learnt = trained(), embedding_of(["I am glad", "I am sad"])
    assert learnt is not None
    write_card(training.folder / "out", replace(training.card, embedding=learnt.table()))
    examine(training)
    assert InputEmbedding.objects.get(version=training.version).value == learnt


def test_examining_twice_makes_one_version(trained: Callable[..., Training]) -> None:
    training = trained()
    examine(training)
    examine(Training.objects.get(pk=training.pk))
    assert AdapterVersion.objects.count() == 1


def test_damaged_files_end_the_training_with_their_reasons(trained: Callable[..., Training]) -> None:
    training = trained(damaged=True)
    examine(training)
    assert training.state == "failed"
    assert "safetensors" in training.reason


def test_files_that_are_gone_end_the_training(trained: Callable[..., Training]) -> None:
    training = trained()
    shutil.rmtree(training.folder)
    examine(training)
    assert (training.state, training.reason) == (
        "failed",
        "The trained files are gone from this machine; train again.",
    )


def test_files_that_cannot_be_copied_now_are_tried_again(
    trained: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = trained()
    with monkeypatch.context() as full:
        full.setattr(drafting.store, "receive_directory", Mock(side_effect=OSError(errno.ENOSPC, "No space left")))
        examine(training)
    assert training.state == "examining"
    assert training.note == "The trained files could not be copied: [Errno 28] No space left. It is tried again."
    examine(training)
    assert training.version is not None


def test_files_that_are_too_large_end_the_training(trained: Callable[..., Training], settings: Any) -> None:
    training = trained()
    settings.MAX_UPLOAD_MB = 0
    examine(training)
    assert training.state == "failed"
    assert "larger than 0 MB, the limit of this site; take a lower rank." in training.reason


def test_the_same_weights_again_are_the_same_draft(trained: Callable[..., Training]) -> None:
    first = trained()
    examine(first)
    first = prove(first)
    again = trained()
    examine(again)
    assert (again.state, again.version) == ("measuring", first.version)


def answer(request: Generate, text: str) -> Sequence[Event]:
    stats = Stats(completion_tokens=1, fingerprint="scripted-1")
    return [Delta(request.id, text, (1,)), Finished(request.id, "done", stats)]


def able(request: Any) -> Sequence[Event]:
    """The adapter knows its task, the base does not."""
    return answer(request, request.inputs["text"].rsplit(" ", 1)[1] if request.adapter else "Hard to say.")


@pytest.fixture
async def draft(trained: Callable[..., Training]) -> AsyncIterator[Training]:
    def make() -> Training:
        training = trained()
        examine(training)
        return prove(training)

    yield await sync_to_async(make)()
    await sync_to_async(connections.close_all)()


async def test_a_draft_is_measured_against_the_bases_best(answering: Any, draft: Training) -> None:
    answering(able)
    await beaten(draft)
    await measure(draft, 60)
    assert (draft.state, draft.measured, draft.to_measure) == ("done", 78, 78)
    run = await Run.objects.aget(pk=draft.run_id)
    assert (run.score, run.verdict, run.n, run.task) == (1.0, "gain", 12, "moods")
    assert not draft.folder.exists()


async def beaten(training: Training) -> None:
    """Wait until the scripted worker has shown its heartbeat."""
    for _ in patiently():
        if any(worker.ready for worker in await slices.inference_client.live_workers()):
            return
        await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_a_measurement_goes_on_slice_by_slice_and_asks_nothing_twice(answering: Any, draft: Training) -> None:
    worker = answering(able)
    await beaten(draft)
    await measure(draft, 0.0)
    assert (draft.state, len(worker.seen)) == ("measuring", 0)
    slices = 0
    while draft.state == "measuring":
        slices += 1
        assert slices < 200
        await measure(draft, 0.2)
    assert len(worker.seen) == 78
    assert draft.state == "done"


@pytest.mark.usefixtures("site_wire")
async def test_without_a_worker_the_measurement_waits_and_queues_nothing(draft: Training) -> None:
    await measure(draft)
    assert (draft.state, draft.note) == ("measuring", NO_WORKER.format(base=draft.base))
    assert not await Run.objects.aexists()


async def test_what_cannot_be_measured_ends_with_its_reason_after_some_tries(answering: Any, draft: Training) -> None:
    answering(lambda request: [Failed(request.id, "adapter_refused", "Its shapes do not fit.")])
    await beaten(draft)
    for _ in range(MOST_SETBACKS):
        assert draft.state == "measuring"
        await measure(draft)
    assert draft.state == "failed"
    assert draft.reason == "It is trained, and a draft, but could not be measured: Its shapes do not fit."
    assert draft.can_be_measured
    assert await sync_to_async(draft.measure_again)()
    await draft.arefresh_from_db()
    assert (draft.state, draft.reason, draft.setbacks) == ("measuring", "", 0)


async def test_answers_that_never_come_in_time_end_the_measurement_and_leave_nothing_queued(
    answering: Any, draft: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(slices, "MOST_SETBACKS", 2)
    answering(lambda request: [])
    await beaten(draft)
    await measure(draft, 0.1)
    assert (draft.state, draft.note) == ("measuring", "Answers took longer than 0.2 seconds. It is tried again.")
    await measure(draft, 0.1)
    assert "could not be measured: Answers took longer than 0.2 seconds." in draft.reason


async def test_a_draft_is_hidden_until_one_click_publishes_it(answering: Any, draft: Training, owner: Client) -> None:
    answering(able)
    await beaten(draft)
    await measure(draft, 60)
    stranger = Client()

    def look() -> list[Any]:
        board = stranger.get("/leaderboard/").content.decode()
        statuses = [stranger.get(path).status_code for path in (f"/runs/{draft.run_id}/", "/leaderboard/moods/")]
        return ["Moods" in board, *statuses]

    assert await sync_to_async(look)() == [False, 404, 404]
    staff = await sync_to_async(owner.get)(f"/runs/{draft.run_id}/")
    assert staff.status_code == 200
    await sync_to_async(owner.post)(f"/admin/training/training/{draft.pk}/publish/")
    assert await sync_to_async(look)() == [True, 200, 200]
    page = (await sync_to_async(stranger.get)("/adapters/moods/")).content.decode()
    assert "100.0" in page


def test_the_shapes_of_another_base_are_not_measured(trained: Callable[..., Training]) -> None:
    training = trained()
    out = training.folder / "out"
    shutil.rmtree(out)
    write_adapter(out, tensors=lora_tensors(layers=(40,)), config=lora_config(layers_to_transform=[40]))
    examine(training)
    assert training.state == "failed"
