"""Names that are offered while one is written in the admin: some at first, and as one types those that fit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from django.contrib.admin.widgets import AdminTextInputWidget
from django.db.models import Q
from django.forms import Script
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from loraland.catalogue.models import Adapter, AdapterVersion

Name = tuple[str, str]
OFFERED: Final = 30
"""So many at once."""
QUERY_CHARS: Final = 120
PART: Final = "part"
KINDS: Final = ("adapter", "blend", PART)
"""An adapter to which a version can be added, a blend to which one can be, and whoever can be a part of one."""


def names(kind: str, words: str = "") -> list[Name]:
    """Slugs and names of the `kind` that have all `words` in one of both, the first by slug."""
    of_adapter = "adapter__" if kind == PART else ""
    fits = Q()
    for word in words[:QUERY_CHARS].split():
        fits &= Q(**{f"{of_adapter}slug__icontains": word}) | Q(**{f"{of_adapter}name__icontains": word})
    columns = (f"{of_adapter}slug", f"{of_adapter}name")
    if kind == PART:
        parts = AdapterVersion.objects.shown().answering().served().filter(fits, gate={})
        return list(parts.order_by("adapter__slug").values_list(*columns)[:OFFERED])
    adapters = Adapter.objects.blends() if kind == "blend" else Adapter.objects.plain()
    return list(adapters.filter(fits).order_by("slug").values_list(*columns)[:OFFERED])


def options(found: Iterable[Name]) -> SafeString:
    """`found` as a datalist has them."""
    return format_html_join("", '<option value="{}">{}</option>', found)


class NameInput(AdminTextInputWidget):
    """A slug to write, where those of a kind are offered."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    class Media:
        js = (Script("js/offered.js", type="module"),)

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        line = super().render(name, value, {**(attrs or {}), "list": f"{name}-offered"}, renderer)
        return line + offered(name, self.kind)


def offered(name: str, kind: str) -> SafeString:
    """What the field `name` offers."""
    address = reverse("admin:catalogue_offered", args=[kind])
    return format_html('<datalist id="{}-offered" data-offers="{}">{}</datalist>', name, address, options(names(kind)))
