"""How measured figures are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import template
from django.template.defaultfilters import floatformat

register = template.Library()


@register.filter
def signed(points: float) -> str:
    """Points with one decimal and their sign: +12.3, −4.0, 0.0."""
    text = floatformat(abs(points), 1)
    return text if text == "0.0" else f"{'+' if points > 0 else '−'}{text}"


@register.filter
def hundredfold(score: float) -> str:
    """A score from 0 to 1 in points of 100 with one decimal."""
    return floatformat(100 * score, 1)


@register.filter
def shade(points: float) -> str:
    """The CSS class of a cell's ground: one of five steps, from -100 or less to 100."""
    return "below" if points < 0 else f"shade-{min(4, int(points // 20))}"


@register.filter
def r(value: float | None) -> str:
    """A correlation with two decimals and its sign, or a dash."""
    return "–" if value is None else f"{value:+.2f}".replace("-", "−").replace("0.", ".", 1)


@register.filter
def lean(value: float | None, chance: float) -> str:
    """The CSS class of a correlation: which way it leans, or that it may be chance."""
    if value is None or abs(value) < chance:
        return "soft"
    return "leans-up" if value > 0 else "leans-down"


@register.filter
def of(found: Mapping[Any, Any], key: Any) -> Any:
    """What `found` has under `key`; None where it has nothing."""
    return found.get(key)


@register.filter
def difference(value: float, other: float) -> float:
    return value - other
