"""How one answer is shown: the same view for the page that loads it and for the socket that ends it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from django.template.loader import render_to_string

from inference.wire.failures import FailureCode, Fault, meaning_of
from inference.wire.protocol import Failed, Stats, Terminal
from loraland.catalogue.models import AdapterVersion
from loraland.generations.models import Generation
from loraland.playground.judgement import Expectation, Judgement, judge
from loraland.playground.markdown import Kind, render
from loraland.playground.strip import Strip, strip_of

Style = Literal["prose", "short", "structured"]
State = Literal["running", "done", "length", "stopped", "failed"]


@dataclass(frozen=True)
class Remedy:
    """The button under an error: what it does in the page's script, and what it says."""

    act: Literal["retry", "edit", "choose", "reload"]
    label: str


SHORT_CHARS: Final = 32
"""Up to this length an answer is a label, and is set large."""

FEWEST_TOKENS: Final = 8
"""From so many on a speed says something: two tokens are timed by their first, and look like slowness."""

RETRY: Final = Remedy("retry", "Ask again")
EDIT: Final = Remedy("edit", "Edit the text")
CHOOSE: Final = Remedy("choose", "Choose another adapter")
RELOAD: Final = Remedy("reload", "Reload the page")

REMEDIES: Final[dict[Fault, Remedy]] = {
    "text": EDIT,
    "request": EDIT,
    "choice": CHOOSE,
    "adapter": CHOOSE,
    "page": RELOAD,
    "service": RETRY,
}


@dataclass(frozen=True)
class AnswerView:
    """One answer as the template `playground/_answer.html` and its parts show it. `html` is safe to insert."""

    generation: Generation | None
    """None for one that was refused before it became one."""
    state: State
    text: str = ""
    html: str = ""
    kind: Kind = "text"
    stats: Stats = field(default_factory=Stats)
    error: str = ""
    remedy: Remedy = RETRY
    judgement: Judgement | None = None
    is_drawn: bool = True
    """Whether the page has room for what weighed the parts of a blend."""

    @property
    def id(self) -> str:
        return str(self.generation.id) if self.generation else ""

    @property
    def is_running(self) -> bool:
        return self.state == "running"

    @property
    def seed(self) -> str:
        return "" if self.stats.seed is None else str(self.stats.seed)

    @property
    def temperature(self) -> float:
        request = self.generation.request if self.generation else {}
        return float(request.get("sampling", {}).get("temperature", 0))

    @property
    def has_speed(self) -> bool:
        """Whether its tokens a second are worth telling."""
        return self.stats.completion_tokens >= FEWEST_TOKENS and self.stats.tokens_per_second > 0

    @property
    def first_token(self) -> str:
        """How long the visitor waited for it, in the unit that reads best."""
        waited = round(self.stats.first_token_ms)
        return f"{waited} ms" if waited < 1000 else f"{waited / 1000:.1f} s"

    @cached_property
    def strip(self) -> Strip | None:
        """What weighed the parts of the blend that gave it."""
        return strip_of(self.generation) if self.is_drawn and not self.is_running else None

    def judged(self) -> str:
        """What it is worth against what was expected; empty where nothing was."""
        return render_to_string("playground/_judgement.html", {"answer": self})

    def foot(self) -> str:
        """What stands under the text: the figures of the answer, and what went wrong."""
        return render_to_string("playground/_foot.html", {"answer": self})


def remedy_of(code: FailureCode) -> Remedy:
    """What a visitor can do about a failure or a refusal."""
    return REMEDIES[meaning_of(code).fault]


def style_of(version: AdapterVersion | None) -> Style:
    """How its answers are set from their first token on, as its examples foretell: nothing jumps at the end."""
    expected = [str(example.get("expected") or "") for example in (version.examples if version else [])]
    if not any(expected):
        return "prose"
    if all(len(text) <= SHORT_CHARS and "\n" not in text for text in expected):
        return "short"
    structured = sum(render(text).kind == "structured" for text in expected)
    return "structured" if structured * 2 > len(expected) else "prose"


def view_of(generation: Generation, expectation: Expectation | None = None) -> AnswerView:
    """The answer as its row knows it, and what it is worth against `expectation`."""
    if not generation.is_finished:
        return AnswerView(generation, "running")
    return ended(generation, generation.terminal(), generation.text, expectation)


def ended(generation: Generation, terminal: Terminal, text: str, expectation: Expectation | None = None) -> AnswerView:
    """The answer that ended in `terminal` with `text`. One that was stopped is not judged: it was not let end."""
    shown = render(text)
    if isinstance(terminal, Failed):
        error, remedy = terminal.error, remedy_of(terminal.code)
        return AnswerView(generation, "failed", text, shown.html, shown.kind, terminal.stats, error, remedy)
    state, stats = terminal.reason, terminal.stats
    judged = judge(text, expectation) if state != "stopped" else None
    return AnswerView(generation, state, text, shown.html, shown.kind, stats, judgement=judged)


def message_of(view: AnswerView, code: str = "") -> dict[str, Any]:
    """The message that tells a page of an answer's end."""
    body = {"answer": view.id, "text": view.text, "html": view.html, "kind": view.kind}
    body |= {"foot": view.foot(), "judgement": view.judged()}
    if view.state == "failed":
        return {"type": "failed", "code": code, "error": view.error, **body}
    return {"type": "finished", "reason": view.state, **body}
