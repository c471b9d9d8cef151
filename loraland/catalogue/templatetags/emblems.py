"""Emblems, glyphs and figures for templates."""

from __future__ import annotations

from collections.abc import Iterable

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from inference.tasks.template import filled
from loraland.catalogue.categories import PLAIN, Category, category_of
from loraland.catalogue.emblem import draw, draw_plain
from loraland.catalogue.emblem import emblem as plan
from loraland.catalogue.models import AdapterVersion

register = template.Library()


@register.simple_tag
def emblem(version: AdapterVersion | None, size: int = 48) -> SafeString:
    """The emblem of `version`, `size` pixels wide; of the base model when there is no version."""
    category = category_of(version.adapter.category) if version else PLAIN
    inside = draw(plan(version.adapter.slug, version.digest)) if version else draw_plain()
    return format_html(
        '<svg class="emblem {}" width="{}" height="{}" viewBox="0 0 48 48" aria-hidden="true">{}</svg>',
        category.css_class,
        size,
        size,
        mark_safe(inside),  # made of numbers alone
    )


@register.simple_tag
def sprite(versions: Iterable[AdapterVersion]) -> SafeString:
    """The emblems of `versions`, each once and unseen, for `emblem_use` to draw as often as a page likes."""
    symbols = (
        (version.adapter.slug, mark_safe(draw(plan(version.adapter.slug, version.digest))))  # made of numbers alone
        for version in versions
    )
    inside = format_html_join("", '<symbol id="emblem-{}" viewBox="0 0 48 48">{}</symbol>', symbols)
    return format_html('<svg class="sprite" width="0" height="0" aria-hidden="true">{}</svg>', inside)


@register.simple_tag
def emblem_use(version: AdapterVersion, size: int = 48) -> SafeString:
    """The emblem of `version` out of the page's `sprite`."""
    return format_html(
        '<svg class="emblem {}" width="{}" height="{}" aria-hidden="true"><use href="#emblem-{}"/></svg>',
        category_of(version.adapter.category).css_class,
        size,
        size,
        version.adapter.slug,
    )


@register.simple_tag
def glyph(category: Category | str) -> SafeString:
    """The glyph of a category, given itself or its name."""
    kind = _category(category)
    return format_html(
        '<svg class="glyph {}" viewBox="0 0 16 16" aria-hidden="true"><path d="{}"/></svg>',
        kind.css_class,
        kind.glyph,
    )


@register.filter
def category_class(category: Category | str) -> str:
    """The CSS class that lends a category's colours to everything in it; the plain base's for an empty value."""
    return _category(category).css_class


@register.filter
def template_parts(version: AdapterVersion) -> list[tuple[str, bool]]:
    """The template of `version` in pieces: its text, and whether the piece is one of its fields."""
    return filled(version.template, {name: f"{{{name}}}" for name in version.field_names})


@register.filter
def points(value: float) -> str:
    """Points of 100, whole unless that would hide a first decimal under ten."""
    return f"{value:.0f}"


@register.filter
def share(value: float) -> str:
    """A length in percent, for the attributes of an SVG."""
    return f"{value:.2f}%"


@register.filter
def compact(number: int) -> str:
    """A count in three figures: 135, 921 K, 3.4 M, 7.2 B."""
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "K")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


@register.filter
def megabytes(number: int) -> str:
    """A size in MB (a million bytes) with one decimal, in kB below 100 kB."""
    return f"{number / 1e6:.1f} MB" if number >= 100_000 else f"{number / 1e3:.0f} kB"


def _category(category: Category | str | None) -> Category:
    if isinstance(category, Category):
        return category
    return category_of(category) if category is not None else PLAIN
