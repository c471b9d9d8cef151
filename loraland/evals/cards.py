"""The scores on an adapter's card: read as runs until it is measured here, and written once it is."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid5

from inference.tasks.card import CARD, ScoreTable, score_table
from inference.tasks.verdict import UNCLEAR, VERDICTS
from loraland.catalogue import store
from loraland.catalogue.card import read_card
from loraland.catalogue.models import AdapterVersion
from loraland.evals.counting import Comparison
from loraland.evals.models import Run

NAMESPACE: Final = UUID("6f1b6f52-9a0f-4e55-8e0f-6a2f1c0f7d11")


def runs_of_card(directory: Path) -> list[Run]:
    """The runs that the card of the adapter in `directory` tells of, not saved: the base's and the adapter's.

    None for a card without a score. Raises `loraland.catalogue.card.CardError`.
    """
    card = read_card(directory / CARD)
    score, digest = card.score, store.digest_in(directory)
    if not {"base", "tuned", "n", "metric"} <= score.keys():
        return []
    common: dict[str, Any] = {
        "task": card.dataset.get("name", directory.name),
        "metric": score["metric"],
        "base": card.base,
        "split": score.get("split", "test"),
        "n": score["n"],
        "source": Run.Source.TRAINING,
        "scoring": score.get("scoring", 1),
        "finished": datetime.fromisoformat(card.training["date"]).replace(tzinfo=UTC),
    }
    base = Run(
        id=uuid5(NAMESPACE, f"base {digest}"),
        subject=Run.Subject.BASE,
        prompt=score.get("base_prompt", ""),
        score=score["base"],
        **common,
    )
    tuned = Run(
        id=uuid5(NAMESPACE, f"adapter {digest}"),
        subject=Run.Subject.ADAPTER,
        adapter=directory.name,
        digest=digest,
        prompt="template",
        score=score["tuned"],
        low=score.get("low"),
        high=score.get("high"),
        verdict=score.get("gain", ""),
        gains={"base": {"run": str(base.pk)}},
        **common,
    )
    return [base, tuned]


def score_of(compared: Comparison) -> ScoreTable:
    """What a card says of finished runs on the same rows, from 0 to 1."""
    tuned, base = compared.tuned, compared.base
    return score_table(
        metric=tuned.metric,
        base=base.score,
        tuned=tuned.score,
        low=tuned.low,
        high=tuned.high,
        n=tuned.n,
        split=tuned.split,
        base_prompt=base.prompt,
        gain=tuned.verdict,
        scoring=tuned.scoring,
        remark="" if compared.remark == VERDICTS[UNCLEAR] else compared.remark,
    )


def show_score(compared: Comparison) -> None:
    """Let the catalogue show the score of an adapter, unless it knows one over more rows."""
    score = score_of(compared)
    for version in AdapterVersion.objects.filter(digest=compared.tuned.digest):
        if version.score.get("n", 0) <= compared.tuned.n and version.score != score:
            AdapterVersion.objects.filter(pk=version.pk).update(score=score)
