"""What a model writes, made safe and set as it reads best."""

from __future__ import annotations

import re

import pytest

from loraland.playground.markdown import MAX_CELLS, MAX_MARKDOWN_CHARS, render

HOSTILE = [
    "**a** <script>alert(1)</script>",
    "**a** <img src=x onerror=alert(1)>",
    "**a** <svg/onload=alert(1)>",
    "**a** <a href='javascript:alert(1)'>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:msgbox)",
    "[x](  javascript:alert(1))",
    "![x](https://evil.example/pixel.png)",
    "[x]: javascript:alert(1)\n\n**a** [x]",
    "<javascript:alert(1)> **a**",
    "`<script>alert(1)</script>`",
    "```html\n<iframe src=//evil></iframe>\n```",
    "**a**\n\n<style>*{display:none}</style>",
    "| a |\n|-|\n| <b onclick=alert(1)>x</b> |",
    '[x](https://a.example "onmouseover=alert(1)")',
    "**a** <!-- --><script src=//evil></script>",
    "**a** &lt;script&gt;alert(1)&lt;/script&gt;",
    '{"a": "<script>alert(1)</script>"}',
    "<b>plain</b>",
]
TAG = re.compile(r"<(/?\w+)([^>]*)>")
ALLOWED = {"p", "strong", "code", "pre", "a", "table", "thead", "tbody", "tr", "th", "td", "em"}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_output_is_inert(text):
    for tag, attributes in TAG.findall(render(text).html):
        assert tag.strip("/") in ALLOWED
        assert re.fullmatch(r"( (href=\"(https?:|mailto:)[^\"]*\"|target=\"_blank\"|rel=\"[a-z ]+\"))*", attributes)


def test_links_go_out_without_a_way_back():
    html = render("See [it](https://a.example/b).").html
    assert 'href="https://a.example/b"' in html
    assert "noopener" in html


@pytest.mark.parametrize(
    "text",
    ["# A title", "- one\n- two", "1. one\n2. two", "a **bold** word", "`code`", "```\nx\n```", "> a", "|a|\n|-|"],
)
def test_markdown_is_known_by_its_marks(text):
    assert render(text).kind == "markdown"


@pytest.mark.parametrize(
    "text",
    [
        "inform(name[Portal], rating[good])",
        '{"intent": "PlayMusic"}',
        "[1, 2]",
        "SELECT name FROM singers WHERE age > 40",
        "intent: PlayMusic; artist: Queen",
    ],
)
def test_structure_keeps_a_fixed_pitch(text):
    assert render(text).kind == "structured"


@pytest.mark.parametrize("text", ["joy", "Hello (world).", "With love, from me", "It costs 3 * 4", "", "{broken"])
def test_plain_words_stay_plain(text):
    assert render(text).kind == "text"


PUMPED = [
    "[",
    "*",
    "`",
    ">",
    "> ",
    "(",
    "![",
    "a=b;",
    "_x",
    "|",
    "[a](",
    "[a\n",
    "<",
    "~~a",
    "**a ",
    "- a\n",
    "&#",
    "\n|",
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("pump", PUMPED)
def test_a_flood_of_marks_ends(pump: str) -> None:
    flood = (pump * MAX_MARKDOWN_CHARS)[: MAX_MARKDOWN_CHARS - 10]
    assert render(f"**a** {flood}").html
    assert render(flood).html


def test_a_table_that_would_grow_without_measure_stays_text() -> None:
    """Each row is filled up to the width of the first, so a few kilobytes can ask for a megabyte of cells."""
    wide = MAX_CELLS // 20
    table = f"{'|a' * wide}|\n{'|-' * wide}|\n" + "|x\n" * wide
    shown = render(table)
    assert shown.kind == "markdown"
    assert "<td>" not in shown.html
    assert shown.html.count("x") == wide


def test_a_table_of_a_usual_size_is_one() -> None:
    table = f"{'|a' * 20}|\n{'|-' * 20}|\n" + f"{'|x' * 20}|\n" * 100
    assert render(table).html.count("<td>") == 2000


def test_a_text_too_long_for_markdown_is_shown_whole_as_it_stands() -> None:
    text = "**a** <b>\n" * (MAX_MARKDOWN_CHARS // 5)
    shown = render(text)
    assert shown.kind == "text"
    assert shown.html == text.replace("<", "&lt;").replace(">", "&gt;")
