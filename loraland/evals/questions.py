"""What is asked of whom: the rows of a task as questions to an adapter, to the base in one style, or to nobody."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from django.conf import settings

from inference.tasks import baseline
from inference.tasks.data import Row, Split
from inference.tasks.metrics import SCORING
from inference.tasks.recipe import Recipe
from inference.tasks.template import fill
from inference.wire.protocol import Message
from loraland.bases import Base
from loraland.catalogue.models import AdapterVersion
from loraland.evals.models import Run

SEED: Final = 0
REFERENCE_STYLE: Final = "instruction"
"""How another model is asked: with a plain instruction, as a chat, without examples."""


@dataclass(frozen=True)
class Question:
    """One row as it is asked. `asked` is what `generations.start` takes; `prompt` is the same, to be read."""

    index: int
    target: str
    prompt: str
    asked: Mapping[str, Any]


@dataclass(frozen=True)
class RunPlan:
    """One run before it is made: what identifies it, its questions, and how an answer is read.

    `version` is None for `base` alone, the default one where none is told; `constant` is the answer where nobody is
    asked.
    """

    facts: Mapping[str, Any]
    questions: Sequence[Question]
    read: Callable[[str], str]
    max_tokens: int
    stops: tuple[str, ...] = ()
    version: AdapterVersion | None = None
    base: Base | None = None
    constant: str | None = None


def of_adapter(version: AdapterVersion, recipe: Recipe, rows: Sequence[Row]) -> RunPlan:
    """The adapter reads its own prompt, and what it writes is its answer as it stands."""
    facts = _facts(recipe, rows, Run.Subject.ADAPTER, "template", Run.Split.TEST)
    facts |= {"adapter": version.adapter.slug, "digest": version.digest, "base": version.adapter.base}
    questions = [
        Question(index, row.target, fill(version.template, row.inputs), {"inputs": row.inputs})
        for index, row in enumerate(rows)
    ]
    return RunPlan(facts, questions, str.strip, recipe.max_answer, version=version)


def of_base(base: Base, style: str, recipe: Recipe, split: Split, part: str, limit: int | None = None) -> RunPlan:
    """`base` is asked in `style` about the rows of `part`, and its answers are read with good will."""
    rows = (split.test if part == Run.Split.TEST else split.validation)[:limit]
    facts = _facts(recipe, rows, Run.Subject.BASE, style, part) | {"base": base.name}
    shots = baseline.choose_shots(split.train, recipe)
    questions = [_question(index, row, baseline.ask(style, row, recipe, shots)) for index, row in enumerate(rows)]
    max_tokens, stops = baseline.max_tokens(recipe), baseline.stops(recipe)
    return RunPlan(facts, questions, lambda text: baseline.read_answer(text, recipe), max_tokens, stops, base=base)


def of_constant(base: Base, recipe: Recipe, split: Split, rows: Sequence[Row]) -> RunPlan:
    """Nobody is asked: the one answer that does best on the training part is given to every row, beside `base`."""
    constant = baseline.best_constant(split.train, recipe)
    facts = _facts(recipe, rows, Run.Subject.CONSTANT, "", Run.Split.TEST)
    facts |= {"base": base.name, "answer": constant}
    questions = [Question(index, row.target, fill(recipe.template, row.inputs), {}) for index, row in enumerate(rows)]
    return RunPlan(facts, questions, str, 0, constant=constant)


def of_reference(recipe: Recipe, rows: Sequence[Row]) -> RunPlan:
    """The model of another server is asked with a plain instruction, and read with the same good will as the base."""
    facts = _facts(recipe, rows, Run.Subject.REFERENCE, REFERENCE_STYLE, Run.Split.TEST)
    facts |= {"base": settings.REFERENCE_MODEL, "source": Run.Source.ENDPOINT}
    asked = [baseline.ask(REFERENCE_STYLE, row, recipe, ()) for row in rows]
    questions = [_question(index, row, prompt) for index, (row, prompt) in enumerate(zip(rows, asked, strict=True))]
    return RunPlan(facts, questions, lambda text: baseline.read_answer(text, recipe), baseline.max_tokens(recipe))


def draw(count: int, of: int, seed: int) -> list[int]:
    """The numbers of `count` rows out of `of`, drawn by `seed`, in their order; all of them where there are fewer."""
    return sorted(random.Random(seed).sample(range(of), min(count, of)))


def only(chosen: Sequence[int], plan: RunPlan, rows: Sequence[Row], seed: int) -> RunPlan:
    """`plan`, which is over all test `rows`, over the `chosen` that `seed` drew; they keep their numbers."""
    facts = {**plan.facts, "split": Run.Split.DRAWN, "seed": seed, "n": len(chosen)}
    facts["rows_digest"] = digest_of([rows[index] for index in chosen])
    return replace(plan, facts=facts, questions=[plan.questions[index] for index in chosen])


def digest_of(rows: Sequence[Row]) -> str:
    """SHA-256 of `rows` in their order: runs of the same digest can be compared row by row."""
    lines = (json.dumps([row.inputs, row.target], sort_keys=True, ensure_ascii=False) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _facts(recipe: Recipe, rows: Sequence[Row], subject: str, style: str, part: str) -> dict[str, Any]:
    return {
        "task": recipe.task,
        "metric": recipe.metric,
        "subject": subject,
        "prompt": style,
        "split": part,
        "rows_digest": digest_of(rows),
        "n": len(rows),
        "seed": SEED,
        "scoring": SCORING,
        "source": Run.Source.ENGINE,
    }


def _question(index: int, row: Row, asked: str | baseline.Chat) -> Question:
    if isinstance(asked, str):
        return Question(index, row.target, asked, {"prompt": asked})
    shown = "\n\n".join(f"[{role}]\n{content}" for role, content in asked)
    return Question(index, row.target, shown, {"messages": [Message(*turn) for turn in asked]})
