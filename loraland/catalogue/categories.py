"""The kinds of work: each has one colour (`.category-<key>` in base.css) and one glyph, wherever it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Category:
    """`glyph` is the path data of a line drawing on a 16 by 16 grid."""

    key: str
    name: str
    glyph: str

    @property
    def css_class(self) -> str:
        return f"category-{self.key}"


CATEGORIES: Final = (
    Category("classic-nlp", "Classic NLP", "M2.5 4h11M2.5 8h7M2.5 12h4.5M11 10.5l1.5 1.5 2-2.5"),
    Category("structured", "Structured", "M5 2.5H3v11h2M11 2.5h2v11h-2M6 6h4M6 10h4"),
    Category("coding", "Coding", "M2.5 4.5 6 8l-3.5 3.5M8 12h5.5"),
    Category(
        "knowledge",
        "Knowledge",
        "M8 4.5C6.5 3 4.5 3 2 3v9c2.5 0 4.5 0 6 1.5 1.5-1.5 3.5-1.5 6-1.5V3c-2.5 0-4.5 0-6 1.5zM8 4.5v9",
    ),
    Category("reasoning", "Reasoning", "M3 8h3.5M6.5 8c3 0 2-4.5 5-4.5H13M6.5 8c3 0 2 4.5 5 4.5H13M6.5 8H13"),
    Category("math", "Math", "M2.5 5h4M4.5 3v4M9.5 5h4M3 9.5l3 3M6 9.5l-3 3M9.5 10h4M9.5 12.5h4"),
)
"""In the order in which the catalogue shows them."""

OTHER: Final = Category("other", "Other", "M8 2.5v11M3.2 5.2l9.6 5.6M12.8 5.2 3.2 10.8")
PLAIN: Final = Category("plain", "Base model", "M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 1 0 0-11z")

_BY_NAME: Final = {category.name.casefold(): category for category in CATEGORIES}


def category_of(name: str) -> Category:
    """The category called `name`; one that is not known here keeps its name in the dress of the others."""
    name = name.strip()
    known = _BY_NAME.get(name.casefold())
    return known or Category(OTHER.key, name or OTHER.name, OTHER.glyph)


def of_key(key: str) -> Category:
    """The category with this key; all without a colour of their own are one."""
    return next((category for category in CATEGORIES if category.key == key), OTHER)


def position(category: Category) -> tuple[int, str]:
    """Where `category` stands among the others: the known in their order, then the rest by name."""
    known = CATEGORIES.index(category) if category in CATEGORIES else len(CATEGORIES)
    return known, category.name.casefold()
