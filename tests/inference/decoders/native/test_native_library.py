"""What crosses the border to C++ has the same names in the same order on both sides."""

from __future__ import annotations

import re
from ctypes import Structure

import pytest

from inference.decoders.native import library
from inference.decoders.native.build import SOURCES


def names_in(source: str, opening: str) -> list[str]:
    """The names that a struct or an enum of `source` declares, in order."""
    text = re.sub(r"//.*", "", (SOURCES / source).read_text())
    (body,) = re.findall(rf"{opening} \{{(.*?)\}};", text, re.DOTALL)
    return re.findall(r"(\w+)(?:\[\w+\])?\s*(?=[,;]|$)", body.strip())


@pytest.mark.parametrize(
    "view",
    [
        library.LinearView,
        library.LayerView,
        library.ModelView,
        library.PairView,
        library.AdapterView,
        library.PassView,
    ],
)
def test_a_view_has_the_fields_of_its_struct(view: type[Structure]) -> None:
    fields = [{"into": "in"}.get(field[0], field[0]) for field in view._fields_]
    assert fields == names_in("views.h", f"struct {view.__name__}")


def test_units_and_targets_are_numbered_as_their_enums() -> None:
    assert list(library.UNITS) == [name.lower() for name in names_in("units.h", "enum Unit : int")]
    targets = [name.removesuffix("_proj").upper() for name in library.TARGETS]
    own = {"EMBED_TOKENS": "EMBEDDING", "LM_HEAD": "HEAD"}
    assert [own.get(name, name) for name in targets] == names_in("views.h", "enum Target")[:-1]
