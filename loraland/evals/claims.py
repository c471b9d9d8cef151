"""What papers claim of blends and routing, as it was measured here: a file of `results/blends/` for each experiment."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from django.conf import settings

from inference.reading import reading
from loraland.evals.intervals import Interval, Line, Scale, scale_of

logger = logging.getLogger(__name__)

VERDICTS: Final = {"shown": "Shown", "not shown": "Not shown", "refuted here": "Refuted here"}
SCORE: Final = "score"
MOST: Final = 100.0
"""Points of the best score."""
LARGEST: Final = 1e15
"""What is further from 0 is no measurement, and a chart's ends would run beyond what a float holds."""
UNITS: Final = {SCORE: "points of 100", "loss": "nats a token of the answers; less is better"}


@dataclass(frozen=True)
class Experiment:
    """What is tried: its name, which its file has, what it is called, and the paper, with its number at arXiv."""

    name: str
    title: str
    paper: str = ""
    arxiv: str = ""


EXPERIMENTS: Final = (
    Experiment("auto", "The adapter that fits, by the prompt", "LoraRetriever, Findings of ACL 2024", "2402.09997"),
    Experiment("auto_apart", "Where the own adapter is missing", "LoraRetriever, Findings of ACL 2024", "2402.09997"),
    Experiment("auto_three", "The three best, added up", "LoraRetriever, Findings of ACL 2024", "2402.09997"),
    Experiment("arrow", "Weights without a training", "Arrow, ICML 2024", "2405.11157"),
    Experiment("ramole", "One router for whatever is retrieved", "RAMoLE", "2406.16989"),
    Experiment("flow", "A gate in every layer, from 200 rows", "LoRA-Flow, ACL 2024", "2402.11455"),
    Experiment("nola", "An adapter as coefficients of random bases", "NOLA, ICLR 2024", "2310.02556"),
    Experiment("multilora", "Several adapters folded into one", "MultiLoRA", "2311.11501"),
    Experiment("deadline", "A first token in time, or a refusal", "S-LoRA, MLSys 2024", "2311.03285"),
)
"""In the order of the page. A file of another name stands behind them by what it says of itself."""


@dataclass(frozen=True)
class Card:
    """One claim: what the paper says, what was set beforehand, and what came out; with a `problem` a file that cannot
    be read, and without a verdict an experiment that has not been run."""

    experiment: Experiment
    verdict: str = ""
    claim: str = ""
    bar: str = ""
    unit: str = ""
    arms: tuple[Line, ...] = ()
    scale: Scale | None = None
    comparisons: tuple[Line, ...] = ()
    differences: Scale | None = None
    intervals: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    problem: str = ""

    @property
    def word(self) -> str:
        return VERDICTS.get(self.verdict, self.verdict) or ("Not readable" if self.problem else "Not run yet")

    @property
    def kind(self) -> str:
        """Its verdict as the name of a class in CSS."""
        return self.verdict.replace(" ", "-") or "missing"


class ClaimError(ValueError):
    """A file of a claim that cannot be shown; the message is a sentence."""


def cards(folder: Path | None = None) -> list[Card]:
    """A card for each experiment, those without a file among them."""
    place = folder or settings.RESULTS_DIR / "blends"
    known = {experiment.name for experiment in EXPERIMENTS}
    others = sorted(path.stem for path in place.glob("*.json") if path.stem not in known)
    found = [_card(experiment, place) for experiment in EXPERIMENTS]
    return found + [_card(Experiment(name, name), place) for name in others]


def _card(experiment: Experiment, folder: Path) -> Card:
    path = folder / f"{experiment.name}.json"
    if not path.exists():
        return Card(experiment)
    try:
        with reading(path.name, ClaimError):
            return _of(experiment, _data(path))
    except ClaimError as error:
        problem = str(error)
    except OSError as error:
        problem = f"{path.name} could not be read ({error.strerror}); put a file there that the site may read."
    logger.warning("a claim cannot be shown: %s", problem)
    return Card(experiment, problem=problem)


def _data(path: Path) -> Any:
    """What the file holds, in which every number is one and every text can be sent."""
    data = json.loads(path.read_text(encoding="utf-8"))
    json.dumps(data, allow_nan=False, ensure_ascii=False).encode()
    return data


def _of(experiment: Experiment, data: Mapping[str, Any]) -> Card:
    """The card of what a file holds; raises whatever is wrong with it."""
    if data["verdict"] not in VERDICTS:
        raise ClaimError(f"its verdict is {data['verdict']!r}; known are {', '.join(VERDICTS)}.")
    of = next((each.get("of", SCORE) for each in data["comparisons"]), SCORE)
    unit, factor = data.get("unit") or UNITS.get(of, of), MOST if of == SCORE and not data.get("unit") else 1.0
    intervals = [_interval_of(arm, of, factor) for arm in data["arms"].values()]
    scale = scale_of(intervals, MOST if factor == MOST else None)
    differences = [_interval(*(factor * float(each[key]) for key in _KEYS)) for each in data["comparisons"]]
    around = scale_of([*differences, Interval(0.0, 0.0, 0.0)])
    named = zip(data["comparisons"], differences, strict=True)
    return Card(
        _titled(experiment, data),
        data["verdict"],
        str(data["claim"]),
        str(data["bar"]),
        unit,
        tuple(
            Line(name, interval, scale, _beside(arm, of, str(data.get("counted") or "rows")))
            for (name, arm), interval in zip(data["arms"].items(), intervals, strict=True)
        ),
        scale,
        tuple(Line(_against(each), interval, around, str(each.get("where", ""))) for each, interval in named),
        around,
        str(data.get("intervals") or "95 % intervals"),
        _facts(data),
        _notes(data),
    )


_KEYS: Final = ("difference", "low", "high")


def _titled(experiment: Experiment, data: Mapping[str, Any]) -> Experiment:
    """`experiment`, or for one that is not known what its file says of itself."""
    if experiment in EXPERIMENTS:
        return experiment
    return Experiment(experiment.name, str(data.get("title") or experiment.name), str(data.get("paper") or ""))


def _interval_of(arm: Mapping[str, Any], of: str, factor: float) -> Interval:
    """The figure of an arm that was compared; its interval is of the same one."""
    low, high = arm.get("interval") or (arm[of], arm[of])
    return _interval(factor * float(arm[of]), factor * float(low), factor * float(high))


def _interval(value: float, low: float, high: float) -> Interval:
    """Raises `ClaimError` for what no chart has room for."""
    if not (-LARGEST <= low <= high <= LARGEST and abs(value) <= LARGEST):
        raise ClaimError(f"{value:g} is said to lie from {low:g} to {high:g}; write numbers, the lower bound first.")
    return Interval(value, low, high)


def _beside(arm: Mapping[str, Any], of: str, counted: str) -> str:
    """What else is known of an arm, in words; its `n` are of what is `counted`."""
    told = [f"{arm['n']:,} {counted}"] if arm.get("n") else []
    if of != SCORE and arm.get("score") is not None:
        told.append(f"score {100 * arm['score']:.1f}")
    if of != "loss" and arm.get("loss") is not None:
        told.append(f"loss {arm['loss']:.3f}")
    if arm.get("bytes"):
        told.append(f"{arm['bytes']:,} bytes")
    return ", ".join(told)


def _against(comparison: Mapping[str, Any]) -> str:
    return f"{comparison['a']} − {comparison['b']}"


def _notes(data: Mapping[str, Any]) -> tuple[str, ...]:
    if not isinstance(notes := data.get("notes", []), list):
        raise ClaimError("its notes are no list; write a list of sentences.")
    return tuple(map(str, notes))


def _facts(data: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Where, when and how it was measured."""
    machine = data.get("machine", "")
    shown = ", ".join(map(str, machine.values())) if isinstance(machine, Mapping) else str(machine)
    told: Sequence[tuple[str, Any]] = (
        ("Machine", shown),
        ("Date", data.get("date", "")),
        ("Seeds", ", ".join(map(str, data.get("seeds", ())))),
        ("Rows", data.get("rows", "")),
        ("Training", data.get("training", "")),
        ("Command", data.get("command", "")),
    )
    return tuple((name, str(value)) for name, value in told if isinstance(value, str) and value)
