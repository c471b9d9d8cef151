"""How measured figures are written."""

from __future__ import annotations

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
