"""Measurements as files, `results/<task>.json`: a fresh clone imports them, so that it shows what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction

from inference.adapters.storable import is_storable
from inference.reading import reading
from loraland.evals import standings
from loraland.evals.cards import show_score
from loraland.evals.counting import comparisons
from loraland.evals.models import Run, Sample
from loraland.evals.task_facts import facts_of, recipe_of

RUN_FIELDS: Final = (
    *("metric", "subject", "adapter", "digest", "base", "prompt", "split", "rows_digest", "n", "seed"),
    *("source", "version", "fingerprint", "score", "low", "high", "gains", "verdict", "scoring"),
)
SAMPLE_FIELDS: Final = ("index", "prompt", "answer", "read", "target", "earned", "possible", "error")


class ResultsError(ValueError):
    """A file of results that cannot be read; the message is a sentence."""


def read_file(path: Path) -> dict[str, Any]:
    """The file of one task: ``{"task": …, "data": facts of its rows, "runs": […]}``. Raises `ResultsError`."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path.name} is not JSON: {error}.") from error
    if not isinstance(data, dict) or data.get("task") != path.stem or not is_storable(data):
        raise ResultsError(f"{path.name} must be an object whose task is {path.stem!r}.")
    return data


def write_file(task: str, directory: Path | None = None, **parts: Any) -> Path:
    """Put `parts` (`data`, `runs`) into the file of `task`; the others stay as they were."""
    path = (directory or settings.RESULTS_DIR) / f"{task}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = read_file(path) if path.exists() else {"task": task}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({**kept, **parts}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def import_file(path: Path) -> int:
    """Keep the runs of the file at `path` that are not known yet; returns how many.

    Raises `ResultsError` for whatever is wrong with the file; that the database is away passes as it is.
    """
    data = read_file(path)
    with reading(f"A run in {path.name}", ResultsError, OperationalError, InterfaceError), transaction.atomic():
        count = sum(_import_run(data["task"], run) for run in data.get("runs", ()))
        if count:  # an adapter that was here before its measurement shows it in the catalogue from now on
            for found in comparisons(Run.objects.on_test().filter(task=data["task"])):
                show_score(found)
        return count


def as_data(run: Run, samples: Iterable[Sample] = ()) -> dict[str, Any]:
    """A finished run as JSON, with those of its samples that may be shown."""
    assert run.finished is not None
    shown = [{name: getattr(sample, name) for name in SAMPLE_FIELDS} for sample in samples]
    fields = {name: getattr(run, name) for name in RUN_FIELDS}
    data = {"id": str(run.pk), **fields, "finished": run.finished.isoformat(timespec="seconds")}
    data |= {"answer": run.answer} if run.answer and may_be_told(run) else {}
    return {**data, "samples": shown} if shown else data


def may_be_told(run: Run) -> bool:
    """Whether the constant answer of `run` may be given on: a label names no row, any other text is out of one."""
    recipe = recipe_of(run.task)
    return not facts_of(run.task).restricted or bool(recipe and recipe.labels)


def _import_run(task: str, data: Mapping[str, Any]) -> bool:
    """Whether the run was new.

    Older files lack the constant answer, or the rules that scored a run; a known run takes up what it lacks.
    """
    answer, scoring = str(data.get("answer", "")), int(data.get("scoring", 1))
    if (known := Run.objects.filter(pk=UUID(str(data["id"])))).exists():
        changed = known.filter(answer="").update(answer=answer) if answer else 0
        if changed + known.filter(score=data["score"], scoring__lt=scoring).update(scoring=scoring):
            standings.place(task)
        return False
    finished = datetime.fromisoformat(data["finished"])
    fields = {name: data[name] for name in RUN_FIELDS if name != "scoring"} | {"answer": answer, "scoring": scoring}
    run = Run(id=UUID(str(data["id"])), task=task, created=finished, **fields)
    run.save()
    Sample.objects.bulk_create(Sample(run=run, **sample) for sample in data.get("samples", ()))
    run.finished = finished
    run.save()
    return True
