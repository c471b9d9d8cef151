"""A wire that takes probes from synchronous code, and the step from files, or from parts, to an examined version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference.tasks.card import Card
from inference.wire.protocol import Failed, Finished, GateRef, Probe, Stats
from loraland import inference_client
from loraland.catalogue import store
from loraland.catalogue.composition import Composition
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.upload.submission import submit, submit_blend
from loraland.catalogue.upload.validation import examine
from tests.loraland.adapter_files import write_adapter

ARROW = GateRef("arrow", 2)
PROMPT = {"template": "Say {text}:", "fields": [{"name": "text", "label": "Text", "rows": 3}]}


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[Probe]:
    """The probes that the site sends, in place of the workers' queue."""
    sent: list[Probe] = []
    monkeypatch.setattr(inference_client, "submit_probe", lambda probe, base: sent.append(probe))
    return sent


@pytest.fixture
def examined(db: None, adapter_store: Path, probes: list[Probe]) -> Callable[..., AdapterVersion]:
    """`examined(directory, slug, **card)` submits the adapter in a directory and examines it as the job does."""

    def run(directory: Path, slug: str = "emotion", **card: object) -> AdapterVersion:
        facts = Card(**{"name": slug.title(), "base": "SmolLM2-135M-Instruct", **card})
        submission = submit(store.receive_directory(directory), slug, facts)
        if submission.is_new:
            version = AdapterVersion.objects.claim(submission.version.pk)
            assert version is not None
            examine(version)
        return AdapterVersion.objects.select_related("adapter").get(pk=submission.version.pk)

    return run


@pytest.fixture
def proven() -> Callable[[AdapterVersion], AdapterVersion]:
    """`proven(version)` lets a worker find that the adapter changes the base."""

    def run(version: AdapterVersion, delta: float = 1.5) -> AdapterVersion:
        version.record_proof(Finished(version.probe_id, "done", Stats(logit_delta=delta)))
        return version

    return run


@pytest.fixture
def refused() -> Callable[..., AdapterVersion]:
    """`refused(version, code)` lets a worker fail to prove the adapter."""

    def run(version: AdapterVersion, code: str = "adapter_refused", error: str = "It is damaged.") -> AdapterVersion:
        version.record_proof(Failed(version.probe_id, code, error))
        return version

    return run


@pytest.fixture
def part(
    examined: Callable[..., AdapterVersion], proven: Callable[..., AdapterVersion], tmp_path: Path
) -> Callable[..., AdapterVersion]:
    """`part("topic")` publishes an adapter with files, of the first letter's own seed."""

    def make(slug: str, **files: Any) -> AdapterVersion:
        directory = write_adapter(tmp_path / slug, **{"seed": ord(slug[0]), **files})
        version = proven(examined(directory, slug, **PROMPT))
        assert version.reasons == []
        return version

    return make


@pytest.fixture
def blended(adapter_store: Path, probes: list[Probe]) -> Callable[..., AdapterVersion]:
    """`blended(parts, gate)` submits a blend and examines it as the job does. `data` is the file of its gate."""

    def run(*parts: AdapterVersion, gate: GateRef = ARROW, data: bytes = b"", slug: str = "trio", **card: Any) -> Any:
        token = store.receive({store.GATE: [data]}) if data else ""
        if data:
            digest = store.digest_in(store.quarantined(token)) or "f" * 64
            gate = GateRef(gate.kind, digest=digest)
        blend = Composition(tuple((each, 1.0) for each in parts), gate)
        submission = submit_blend(slug, Card(name=slug.title(), **card), blend, token=token)
        if submission.is_new and (claimed := AdapterVersion.objects.claim(submission.version.pk)):
            examine(claimed)
        return AdapterVersion.objects.select_related("adapter").get(pk=submission.version.pk)

    return run
