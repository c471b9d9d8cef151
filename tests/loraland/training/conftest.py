"""A data set of an owner, and trainings on it in any state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from redis import Redis

from inference.wire.protocol import Probe
from loraland import inference_client
from loraland.evals.models import DataSet
from loraland.training.models import Training
from tests.loraland.training.moods import lines


@pytest.fixture(autouse=True)
def folders(settings: Any, tmp_path: Path) -> None:
    settings.DATASETS_DIR, settings.TRAININGS_DIR = tmp_path / "datasets", tmp_path / "trainings"


@pytest.fixture
def redis(redis_url: str, settings: Any) -> Iterator[Redis]:
    """An empty Redis, which is the site's too."""
    settings.REDIS_URL = redis_url
    with Redis.from_url(redis_url) as client:
        client.flushall()
        yield client


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[Probe]:
    """The probes that the site sends, in place of the workers' queue."""
    sent: list[Probe] = []
    monkeypatch.setattr(inference_client, "submit_probe", lambda probe, base: sent.append(probe))
    return sent


@pytest.fixture
def owner(db: None, client: Client) -> Client:
    client.force_login(User.objects.create_superuser("owner", password="x"))
    return client


@pytest.fixture
def upload(owner: Client) -> Callable[..., DataSet]:
    """`upload(rows, test)` keeps a data set, and a test part with it, through the admin."""

    def run(rows: list[bytes] | None = None, test: list[bytes] = [], name: str = "Moods") -> DataSet:  # noqa: B006
        data: dict[str, Any] = {"name": name, "file": SimpleUploadedFile("rows.jsonl", b"".join(rows or lines()))}
        if test:
            data["test_file"] = SimpleUploadedFile("test.jsonl", b"".join(test))
        answer = owner.post("/admin/evals/dataset/add/", data)
        assert answer.status_code == 302, answer.content.decode()
        return DataSet.objects.latest("pk")

    return run


@pytest.fixture
def plan(upload: Callable[..., DataSet]) -> Callable[..., Training]:
    """`plan(**fields)` makes a training on the moods."""

    def run(**fields: Any) -> Training:
        data = fields.pop("data", None) or DataSet.objects.first() or upload()
        defaults: dict[str, Any] = {
            "slug": "moods",
            "name": "Moods",
            "category": "Classic NLP",
            "template": "Text: {text}\nLabel:",
            "instruction": "Answer with one of these: anger, joy, sadness.",
            "metric": "accuracy",
            "labels": ["anger", "joy", "sadness"],
            "max_answer": 8,
            "base": "SmolLM2-135M-Instruct",
            "steps": 40,
            "batch": 8,
            "learning_rate": 1e-3,
            "rank": 2,
            "target_modules": ["q_proj", "v_proj"],
            "max_length": 128,
            "created_by": User.objects.first(),
        }
        return Training.objects.create(data=data, **{**defaults, **fields})

    return run
