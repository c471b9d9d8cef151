"""A finished answer as safe HTML. What a model writes is hostile until it has been through here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Final, Literal

import nh3
from markdown_it import MarkdownIt

MAX_MARKDOWN_CHARS: Final = 20_000

Kind = Literal["text", "markdown", "structured"]

_BLOCKS: Final = {"p", "br", "hr", "pre", "blockquote", "ul", "ol", "li", "h1", "h2", "h3", "h4", "h5", "h6"}
_TABLE: Final = {"table", "thead", "tbody", "tr", "th", "td"}
_INLINE: Final = {"strong", "em", "s", "del", "code", "a"}
_SCHEMES: Final = {"http", "https", "mailto"}
_MARKDOWN: Final = re.compile(
    r"^ {0,3}(?:#{1,6} \S|[-*+] \S|\d{1,3}[.)] \S|> \S|```|~~~|\|.+\|[ \t]*$)"
    r"|\*\*\S[^\n]*?\S?\*\*|`[^`\n]+`|\[[^\]\n]+\]\([^)\n]+\)",
    re.MULTILINE,
)
_STRUCTURED: Final = re.compile(
    r"[A-Za-z_]\w*\(.*\)[.;]?"  # inform(name[Portal], rating[good])
    r"|(?:SELECT\s.+\sFROM|INSERT INTO|UPDATE|DELETE FROM)\s.+"
    r"|[\w .\"']{1,40}\s?[=:]\s?[^;|\n]+(?:[;|]\s?[\w .\"']{1,40}\s?[=:]\s?[^;|\n]*)+;?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Rendered:
    """`html` is safe to insert; only markdown has tags in it, the other kinds keep their line breaks."""

    kind: Kind
    html: str


def render(text: str) -> Rendered:
    """Choose how `text` reads best: as structure in a fixed pitch, as Markdown, or as it stands."""
    if _is_structured(text.strip()):
        return Rendered("structured", escape(text))
    if len(text) <= MAX_MARKDOWN_CHARS and _MARKDOWN.search(text):
        return Rendered("markdown", _clean(_parser().render(text)))
    return Rendered("text", escape(text))


def _is_structured(text: str) -> bool:
    if len(text) > 4000:
        return False
    if text[:1] in "{[" and text:
        try:
            return isinstance(json.loads(text), dict | list)
        except (ValueError, RecursionError):
            return False
    return "\n\n" not in text and "```" not in text and bool(_STRUCTURED.fullmatch(text))


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": 20})
    return parser.enable(["table", "strikethrough"]).disable("image")


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
