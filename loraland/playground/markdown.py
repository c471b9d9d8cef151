"""A finished answer as safe HTML. What a model writes is hostile until it has been through here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Final, Literal

import nh3
from markdown_it import MarkdownIt

from loraland.playground.structure import is_structured

MAX_MARKDOWN_CHARS: Final = 20_000
MAX_CELLS: Final = 10_000
"""Past so many cells a table stays text: 3 KB of bars can ask for 65,000 cells, 660 KB of HTML."""
MAX_NESTING: Final = 12
"""Quotations count one and lists two; every line is tried against each that is open."""

Kind = Literal["text", "markdown", "structured"]

_BLOCKS: Final = {"p", "br", "hr", "pre", "blockquote", "ul", "ol", "li", "h1", "h2", "h3", "h4", "h5", "h6"}
_TABLE: Final = {"table", "thead", "tbody", "tr", "th", "td"}
_INLINE: Final = {"strong", "em", "s", "del", "code", "a"}
_SCHEMES: Final = {"http", "https", "mailto"}
_MARKDOWN: Final = re.compile(
    r"^ {0,3}(?:#{1,6} \S|[-*+] \S|\d{1,3}[.)] \S|> \S|```|~~~|\|.+\|[ \t]*$)"
    r"|\*\*\S[^\n]*?\*\*|`[^`\n]+`|\[[^\[\]\n]+\]\([^)\[\n]+\)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Rendered:
    """`html` is safe to insert; only markdown has tags in it, the other kinds keep their line breaks."""

    kind: Kind
    html: str


def render(text: str) -> Rendered:
    """Choose how `text` reads best: as structure in a fixed pitch, as Markdown, or as it stands."""
    if is_structured(text.strip()):
        return Rendered("structured", escape(text))
    if len(text) <= MAX_MARKDOWN_CHARS and _MARKDOWN.search(text):
        return Rendered("markdown", _clean(_parser(has_tables=_cells(text) <= MAX_CELLS).render(text)))
    return Rendered("text", escape(text))


def _cells(text: str) -> int:
    """At most so many cells a table in `text` has: Markdown fills each row up to the width of the first."""
    lines = text.splitlines()
    return len(lines) * (1 + max(line.count("|") for line in lines))


@cache
def _parser(has_tables: bool) -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": MAX_NESTING})
    return parser.enable(["table", "strikethrough"] if has_tables else ["strikethrough"]).disable("image")


def _clean(html: str) -> str:
    return nh3.clean(
        html,
        tags=_BLOCKS | _TABLE | _INLINE,
        clean_content_tags={"script", "style"},
        attributes={"*": set(), "a": {"href"}, "ol": {"start"}},
        url_schemes=_SCHEMES,
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
        strip_comments=True,
    )
