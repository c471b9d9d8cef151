"""`python -m tests.bench.crowd COUNT`: so many published adapters as rows alone, measured ones and blends among them.

They have no files and answer nothing: what they are for is to be listed, found, counted and ordered. A site's database
that is migrated gets them in a minute.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections.abc import Iterator
from datetime import timedelta
from itertools import chain
from typing import Any, Final

import django

TASKS: Final = 5
"""Every so many adapters learnt the same task."""
BLENDS: Final = 50
"""Every so manieth is a blend."""
UNSERVED: Final = 40
"""Every so manieth is for a base that is not served."""
UNMEASURED: Final = 10
VERSIONS: Final = 20
"""Every so manieth has a ready version beside the published one."""
OWNERS: Final = 50
WORDS: Final = """
tweets news contracts recipes weather football medicine chess poems tickets invoices patents resumes reviews lyrics
manuals forecasts speeches letters minutes ledgers sermons menus fables riddles verdicts
"""
VERBS: Final = "Sorts Tags Rewrites Shortens Translates Answers Grades Extracts Counts Explains"
CATEGORIES: Final = ("Classic NLP", "Structured", "Coding", "Knowledge", "Reasoning", "Math", "Law", "Music", "")
TEMPLATE: Final = "Say what this text is about.\nText: {text}\nAnswer: "


def fill(count: int, start: int = 0) -> None:
    """Put them into the database of these settings, numbered from `start`. Raises what the database does."""
    from loraland.catalogue.models import Adapter, AdapterVersion

    owners = _owners()
    numbers = range(start, start + count)
    adapters = Adapter.objects.bulk_create([_adapter(number) for number in numbers], batch_size=1000)
    made = (_versions(number, adapter, owners) for number, adapter in zip(numbers, adapters, strict=True))
    versions = AdapterVersion.objects.bulk_create(chain.from_iterable(made), batch_size=500)
    for version in versions:
        if version.status == AdapterVersion.Status.PUBLISHED:
            version.adapter.published = version
    Adapter.objects.bulk_update(adapters, ["published"], batch_size=300)
    _parts([version for version in versions if version.status == AdapterVersion.Status.PUBLISHED])
    _embeddings(versions)
    _runs(versions)
    _complete()


def _owners() -> list[Any]:
    from django.contrib.auth.models import User

    known = list(User.objects.filter(username__startswith="owner-"))
    owners = [User(username=f"owner-{number}", is_staff=True) for number in range(OWNERS)]
    return known or User.objects.bulk_create(owners)


def _adapter(number: int) -> Any:
    from django.conf import settings

    from loraland.catalogue.models import Adapter

    draw = random.Random(number)
    verb, word, other = draw.choice(VERBS.split()), draw.choice(WORDS.split()), draw.choice(WORDS.split())
    base = "Mistral-7B-v0.1" if number % UNSERVED == 1 else settings.BASE_NAME
    return Adapter(
        slug=f"crowd-{number:05d}",
        name=f"{verb} {word} {number}",
        category=CATEGORIES[number % len(CATEGORIES)],
        summary=f"{verb} {word} by what a person who knows {other} would say of them, in a few words.",
        description="It learnt from rows that nobody has. " * 12,
        base=base,
        author=f"Owner {number % OWNERS}",
        license="Apache-2.0",
        dataset={"name": f"crowd_task_{number // TASKS}", "license": "CC-BY-4.0", "train_rows": 1000},
    )


def _versions(number: int, adapter: Any, owners: list[Any]) -> Iterator[Any]:
    from django.utils import timezone

    from loraland.catalogue.models import AdapterVersion

    draw, now = random.Random(number), timezone.now()
    base = round(draw.uniform(0.05, 0.5), 3)
    tuned = round(min(1.0, base + draw.uniform(-0.05, 0.5)), 3)
    is_clear = tuned - base > 0.05
    score = {"metric": "accuracy", "base": base, "tuned": tuned, "low": tuned - 0.02, "high": tuned + 0.02, "n": 300}
    score |= {"split": "test", "gain": "gain" if is_clear else "no clear gain"}
    kept: dict[str, Any] = {
        "config": {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
        "rank": 8,
        "lora_alpha": 16.0,
        "target_modules": ["q_proj", "v_proj"],
        "num_parameters": 460_800,
        "size_bytes": 900_000 + draw.randrange(4_000_000),
        "template": TEMPLATE,
        "fields": [{"name": "text", "label": "Text", "rows": 3}],
        "examples": [{"inputs": {"text": f"{draw.choice(WORDS.split())} " * 20}, "expected": "news"}] * 3,
        "training": {"steps": 300, "batch": 8, "learning_rate": 0.001, "date": "2026-11-30"},
        "score": {} if number % UNMEASURED == 3 else score,
        "created": now - timedelta(minutes=number),
        "published_at": now - timedelta(minutes=number),
        "created_by": owners[number % len(owners)],
        "logit_delta": 1.0,
    }
    if number % BLENDS == 2:
        kept["gate"] = {"kind": "arrow", "top_k": 2, "temperature": 1.0, "digest": ""}
    status = AdapterVersion.Status
    yield AdapterVersion(adapter=adapter, digest=_digest(number, "a"), status=status.PUBLISHED, **kept)
    if number % VERSIONS == 5:
        yield AdapterVersion(adapter=adapter, digest=_digest(number, "b"), status=status.READY, **kept)


def _digest(number: int, letter: str) -> str:
    return hashlib.sha256(f"{number} {letter}".encode()).hexdigest()


def _parts(published: list[Any]) -> None:
    from loraland.catalogue.blends import BlendPart
    from loraland.catalogue.models import AdapterVersion

    plain = [version for version in published if not version.gate]
    blends = [version for version in published if version.gate]
    rows = []
    for number, blend in enumerate(blends):
        parts = [plain[(3 * number + place) % len(plain)] for place in range(min(3, len(plain)))]
        blend.components = [{"model": str(part), "digest": part.digest, "weight": 1.0} for part in parts]
        rows += [BlendPart(blend=blend, part=part, position=place) for place, part in enumerate(parts)]
    BlendPart.objects.bulk_create(rows, batch_size=1000)
    AdapterVersion.objects.bulk_update(blends, ["components"], batch_size=300)


def _embeddings(versions: list[Any]) -> None:
    """By which `auto` finds them: numbers by chance, as texts of an adapter give them."""
    from inference.tasks.embedding import EMBEDDER
    from inference.tasks.ngrams import BUCKETS
    from loraland.catalogue.embeddings import InputEmbedding

    draw = random.Random(1)
    rows = (
        InputEmbedding(version=version, embedder=EMBEDDER, texts=3, numbers=draw.randbytes(BUCKETS))
        for version in versions
        if version.status == "published" and not version.gate
    )
    InputEmbedding.objects.bulk_create(rows, batch_size=500)


def _runs(versions: list[Any]) -> None:
    from loraland.evals.models import Run

    Run.objects.bulk_create((run for version in versions for run in _measured(version)), batch_size=500)


def _measured(version: Any) -> Iterator[Any]:
    """The runs that an adapter's score is of; the first of each task brings those of its base and of a constant."""
    from loraland.evals.models import Run

    if not version.score or version.status != "published":
        return
    task = version.adapter.dataset["name"]
    common = {"task": task, "metric": "accuracy", "n": 300, "base": version.adapter.base, "rows_digest": _rows(task)}
    common |= {"finished": version.published_at, "source": Run.Source.ENGINE}
    score = version.score
    yield Run(
        subject=Run.Subject.ADAPTER, adapter=version.adapter.slug, digest=version.digest, prompt="template",
        score=score["tuned"], low=score["low"], high=score["high"], verdict=score["gain"],
        gains={"base": {"low": 0.1, "high": 0.2}}, **common,
    )  # fmt: skip
    yield Run(subject=Run.Subject.BASE, prompt="instruction", score=score["base"], low=0.0, high=0.9, **common)
    yield Run(subject=Run.Subject.CONSTANT, answer="news", score=0.1, low=0.0, high=0.2, **common)


def _rows(task: str) -> str:
    return hashlib.sha256(task.encode()).hexdigest()


def _complete() -> None:
    """What the site keeps beside rows that are saved one by one."""
    from loraland.catalogue import listed
    from loraland.evals import standings

    listed.complete()
    standings.complete()


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraland.settings")
    django.setup()
    fill(int(sys.argv[1]))
