"""The sampling panel: which settings a visitor may choose, their ranges and what they start as."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Final

from django.conf import settings

from inference.wire.digits import whole
from inference.wire.protocol import Sampling
from loraland.catalogue.models import AdapterVersion

MAX_SEED: Final = 2**63 - 1
FRESH_TEMPERATURE: Final = 0.7
"""What a greedy answer is asked again with: at 0 it would only repeat itself."""


@dataclass(frozen=True)
class Setting:
    """One number of the panel; `label` and `hint` are what the visitor reads."""

    name: str
    label: str
    hint: str
    low: float
    high: float
    step: str
    whole: bool = False


SETTINGS: Final = (
    Setting("temperature", "Temperature", "0 always takes the likeliest token", 0, 2, "0.1"),
    Setting("top_p", "Top-p", "keep the likeliest tokens up to this share", 0.01, 1, "0.01"),
    Setting("top_k", "Top-k", "keep this many tokens; 0 keeps all", 0, 1000, "1", whole=True),
    Setting("max_tokens", "Longest answer", "in tokens", 1, settings.MAX_NEW_TOKENS, "1", whole=True),
)
_KNOWN: Final = {setting.name for setting in SETTINGS} | {"seed"}


def defaults(version: AdapterVersion | None) -> Sampling:
    """Adapters answer greedily, as they were scored; the base talks more freely."""
    longest = settings.MAX_NEW_TOKENS
    if version is None:
        return Sampling(temperature=0.6, top_p=0.9, max_tokens=min(512, longest))
    return Sampling(temperature=0.0, max_tokens=min(256, longest))


def parse(content: Any) -> Sampling | None:
    """Read the panel as a page sends it; None stands for the defaults. Raises ValueError with a sentence."""
    if content is None:
        return None
    if not isinstance(content, dict) or content.keys() - _KNOWN:
        raise ValueError(f"sampling is an object of {', '.join(sorted(_KNOWN))}.")
    given = [setting for setting in SETTINGS if setting.name in content]
    chosen: dict[str, Any] = {setting.name: _number(setting, content[setting.name]) for setting in given}
    return replace(Sampling(), seed=_seed(content.get("seed")), **chosen)


def refreshed(sampling: Sampling) -> Sampling:
    """The same settings, able to give another answer: not greedy."""
    return replace(sampling, temperature=sampling.temperature or FRESH_TEMPERATURE)


def _number(setting: Setting, value: Any) -> float:
    allowed = int if setting.whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed) or not setting.low <= value <= setting.high:
        kind = "a whole number" if setting.whole else "a number"
        raise ValueError(f"{setting.label} is {kind} from {setting.low:g} to {setting.high:g}.")
    return value


def _seed(value: Any) -> int | None:
    """Seeds travel as text, since a browser's numbers end at 2^53."""
    if value is None or value == "":
        return None
    try:
        return whole(value if isinstance(value, str) else json.dumps(value), MAX_SEED)
    except ValueError:
        raise ValueError(f"Seed is a whole number from 0 to {MAX_SEED}, or empty.") from None
