"""The admin's form of a blend: which adapters answer together, what weighs them, and what people should know of it."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any, Final, cast

from django import forms
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from inference.tasks.card import CARD
from loraland import bases
from loraland.catalogue import store
from loraland.catalogue.composition import MAX_PARTS, Composition, base_of
from loraland.catalogue.gate_names import TOP_K
from loraland.catalogue.models import Adapter
from loraland.catalogue.upload.archive import ArchiveRefused, Contents, read_archive
from loraland.catalogue.upload.assembling import BlendRefused, assembled
from loraland.catalogue.upload.bases import doubt_about_base
from loraland.catalogue.upload.blending import Gated, named_in
from loraland.catalogue.upload.entry_form import EntryForm, OfAdapter
from loraland.catalogue.upload.layout import PICKLED
from loraland.catalogue.upload.offered import PART, NameInput, offered
from loraland.catalogue.upload.submission import Submission, find, submit_blend

if TYPE_CHECKING:
    from django.contrib.auth.models import User

_ZIP: Final = b"PK\x03\x04"
_PICKLE: Final = b"\x80"
_PICKLES: Final = (".pt", ".pth", ".bin", ".pkl")
"""A length of safetensors may begin like a pickle; a name decides."""


class PartNames(NameInput):
    """A line for each part, in order, where the names of those that can be one are offered."""

    def __init__(self) -> None:
        super().__init__(PART)

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        given = [*(value or []), *[""] * MAX_PARTS][:MAX_PARTS]
        own = {key: each for key, each in (attrs or {}).items() if key != "id"} | {"list": f"{name}-offered"}
        ids = [{"id": f"id_{name}_{at}", "aria-label": f"Part {at}"} for at in range(1, len(given) + 1)]
        line = super(NameInput, self).render
        lines = [line(name, each, own | id, renderer) for each, id in zip(given, ids, strict=True)]
        rows = format_html_join("", "<li>{}</li>", ((line,) for line in lines))
        return format_html('<ol class="parts">{}</ol>{}', rows, offered(name, PART))

    def value_from_datadict(self, data: Any, files: Any, name: str) -> list[str]:
        return [text.strip() for text in data.getlist(name) if text.strip()]


class Parts(forms.Field):
    """Names of versions, in order."""

    widget = PartNames


class BlendForm(EntryForm):
    """A gate's file, or none for Arrow, and the parts that it weighs."""

    first_file = card_file = "gate_file"

    gate_file = forms.FileField(
        required=False,
        label="Gate",
        help_text=(
            f"{store.GATE} of LoRA-Flow or RAMoLE, or a .zip with it; a {CARD} beside it fills what you leave empty. "
            "None for Arrow, whose gate follows from the parts."
        ),
    )
    top_k = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=MAX_PARTS,
        label="Arrow: how many count",
        help_text=f"Of how many parts the scores count at each token; {TOP_K} if empty.",
    )
    temperature = forms.FloatField(
        required=False,
        min_value=0.000001,
        max_value=999,
        label="Arrow: temperature",
        help_text="Below 1 the best part counts more, above 1 less; 1 if empty.",
    )
    parts = Parts(
        required=False,
        label="Parts",
        help_text=(
            "A slug, or slug@digest for another version than the one that is shown. The first one's prompt is used "
            "unless you write one. Leave them empty where the gate's file names them."
        ),
    )
    adapter = OfAdapter(NameInput("blend"))
    base_confirmed = forms.BooleanField(
        required=False,
        label="Its base is right",
        help_text=f"Tick it when {store.GATE} names another base than that of its parts, and you want it so.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["template"].help_text = "With {field} where an input goes; the first part's if empty."
        self.fields["chats_freely"].help_text = "It reads conversations, whatever prompt its first part has."

    def full_clean(self) -> None:
        self.gate: Gated | None = None
        self.blend: Composition | None = None
        super().full_clean()

    def clean(self) -> dict[str, Any]:
        self._find_parts(self.cleaned_data)
        return super().clean()

    def submit(self, user: User) -> Submission:
        """Make a version of the checked blend, or find the one that it repeats."""
        cleaned, adapter = self.cleaned_data, self.cleaned_data.get("adapter")
        assert self.blend is not None
        told = {name: cleaned[name] for name in ("base_confirmed", "chats_freely")}
        told["publish"] = cleaned["publish_when_ready"]
        slug = adapter.slug if adapter else cleaned["slug"]
        return submit_blend(slug, self._card(), self.blend, token=cleaned["token"], user=user, **told)

    def _adapters(self) -> Any:
        return Adapter.objects.blends()

    def _contents(self) -> Contents | None:
        """The chunks of the file, whatever the browser calls it."""
        if (file := self.files.get("gate_file")) is None:
            return None
        head = file.read(4)
        file.seek(0)
        if head.startswith(_PICKLE) and (file.name or "").endswith(_PICKLES):
            raise ArchiveRefused([PICKLED])
        if head == _ZIP:
            return read_archive(cast("IO[bytes]", file), (store.GATE,))
        return Contents({store.GATE: file.chunks()})

    def _find_parts(self, cleaned: dict[str, Any]) -> None:
        """The blend that is meant, if it can be one; what is wrong with it is told."""
        if self.token:
            self.gate = Gated(store.quarantined(self.token) / store.GATE)
        settings = {name: cleaned.get(name) for name in ("top_k", "temperature")}
        if self.faults or self.errors.keys() & settings.keys():
            return
        try:
            self.blend = assembled(self.gate, cleaned.get("parts") or [], **settings)
        except BlendRefused as error:
            self.add_error(error.about, error.reasons)

    def _clean_prompt(self, cleaned: dict[str, Any], known: list[dict[str, Any]]) -> None:
        """What is left empty for a new blend is the first part's."""
        is_free = cleaned.get("chats_freely") or cleaned.get("adapter")
        if self.blend and not is_free and not cleaned.get("template", "").strip():
            first = self.blend.versions[0]
            cleaned["template"], cleaned["field_names"] = first.template, ", ".join(first.field_names)
            cleaned["chats_freely"] = not first.template
            known = [*known, *first.fields]
        super()._clean_prompt(cleaned, known)

    def _is_bare(self, cleaned: dict[str, Any]) -> bool:
        """Without parts that can be blended nobody knows whose prompt it would have."""
        return self.blend is not None and super()._is_bare(cleaned)

    def _check_files(self, cleaned: dict[str, Any]) -> None:
        if self.blend is None:
            return
        base, adapter = base_of(self.blend), cleaned.get("adapter")
        if adapter and bases.of_name(adapter.base) != base:
            self.add_error("parts", f"{adapter.slug} is for {adapter.base}, and these parts are for {base.name}.")
        if adapter and find(adapter.slug, self.blend.digest):
            return
        doubt = doubt_about_base(named_in(self.gate), base, store.GATE)
        if doubt and not cleaned.get("base_confirmed"):
            self.add_error("base_confirmed", f"{doubt} Tick this if it is to be served so.")
