"""The admin's upload form: an adapter's files, and what people should know of it, on one page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any, cast

from django import forms
from django.contrib.admin.widgets import AdminTextareaWidget, AdminTextInputWidget
from django.core.files.uploadedfile import UploadedFile
from django.core.validators import RegexValidator
from django.utils.text import slugify

from loraland.catalogue import store
from loraland.catalogue.archive import ArchiveRefused, read_archive
from loraland.catalogue.card import TEXTS, Card
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.slug import refusal
from loraland.catalogue.submission import Submission, submit
from loraland.catalogue.template import TemplateError, fields_of, parse_examples

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    ModelForm = forms.ModelForm[AdapterVersion]
    Upload = UploadedFile[bytes]
else:
    ModelForm = forms.ModelForm
    Upload = UploadedFile

LINE = AdminTextInputWidget
NOT_A_PATH = RegexValidator(r"^[^/\\]*$", "Write a name without slashes.")


class UploadForm(ModelForm):
    """Two files or one .zip of them, for a new adapter or for a new version of one."""

    config_file = forms.FileField(required=False, label=store.CONFIG)
    weights_file = forms.FileField(required=False, label=store.WEIGHTS)
    archive = forms.FileField(required=False, label="or one .zip of the two")

    adapter = forms.ModelChoiceField(
        Adapter.objects.all(),
        required=False,
        label="New version of",
        empty_label="(a new adapter)",
        help_text="What you leave empty below is then taken from its latest version.",
    )
    name = forms.CharField(max_length=TEXTS["name"], required=False, widget=LINE)
    slug = forms.SlugField(
        max_length=80, required=False, help_text="Its name in addresses; made from the name if empty."
    )
    category = forms.CharField(max_length=TEXTS["category"], required=False, widget=LINE)
    summary = forms.CharField(
        max_length=TEXTS["summary"], required=False, widget=LINE, help_text="What it is for, in one plain sentence."
    )
    description = forms.CharField(
        max_length=TEXTS["description"], required=False, widget=AdminTextareaWidget({"rows": 4})
    )
    license = forms.CharField(max_length=TEXTS["license"], required=False, widget=LINE)
    author = forms.CharField(max_length=TEXTS["author"], required=False, widget=LINE)
    base = forms.CharField(
        max_length=TEXTS["base"],
        required=False,
        widget=LINE,
        validators=[NOT_A_PATH],
        help_text=f"Name of the base model; read from {store.CONFIG} if empty. The shapes of the tensors decide.",
    )

    template = forms.CharField(
        required=False,
        strip=False,
        widget=AdminTextareaWidget({"rows": 8}),
        help_text="The prompt it was trained on, with {field} where an input goes. Empty: free chat.",
    )
    field_names = forms.CharField(
        required=False,
        label="Fields",
        widget=LINE,
        help_text="Names with commas between; every {placeholder} if empty.",
    )
    example_lines = forms.CharField(
        required=False,
        label="Example inputs",
        widget=AdminTextareaWidget({"rows": 5}),
        help_text='One JSON object a line: {"text": "What a day!", "expected": "joy"}',
    )

    class Meta:
        model = AdapterVersion
        fields = ("publish_when_ready",)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("adapter"):
            self._check_empty(
                cleaned, "name", "slug", "category", "summary", "description", "license", "author", "base"
            )
        else:
            self._check_new(cleaned)
        self._clean_prompt(cleaned)
        if not self.errors:
            self._receive(cleaned)
        return cleaned

    def submit(self, user: User) -> Submission:
        """Make a version of the checked upload, or find the one that it repeats."""
        cleaned = self.cleaned_data
        adapter = cleaned.get("adapter")
        slug = adapter.slug if adapter else cleaned["slug"]
        return submit(cleaned["token"], slug, self._card(), user=user, publish=cleaned["publish_when_ready"])

    def _check_empty(self, cleaned: dict[str, Any], *names: str) -> None:
        for name in names:
            if cleaned.get(name):
                self.add_error(name, f"Leave this empty for a new version: {cleaned['adapter'].slug} keeps its own.")

    def _check_new(self, cleaned: dict[str, Any]) -> None:
        name = cleaned.get("name")
        if not name:
            return self.add_error(
                "name", "Give the new adapter a name, or choose the adapter that this is a version of."
            )
        cleaned["slug"] = slug = cleaned.get("slug") or slugify(name)[:80]
        if reason := refusal(slug):
            self.add_error("slug", reason)
        elif Adapter.objects.filter(slug=slug).exists():
            self.add_error("slug", f"{slug} exists already; choose it under “New version of”, or write another slug.")
        return None

    def _clean_prompt(self, cleaned: dict[str, Any]) -> None:
        latest = cleaned["adapter"].versions.first() if cleaned.get("adapter") else None
        template = cleaned.get("template", "").replace("\r\n", "\n")
        names = [name.strip() for name in cleaned.get("field_names", "").split(",") if name.strip()]
        if not template.strip() and latest:
            template, names = latest.template, names or list(latest.field_names)
        cleaned.update(template=template, fields=[], examples=[])
        try:
            cleaned["fields"] = self._with_labels(fields_of(template, names), latest)
        except TemplateError as error:
            return self.add_error("field_names" if names else "template", error.reasons)
        try:
            cleaned["examples"] = parse_examples(cleaned.get("example_lines", ""), cleaned["fields"])
        except TemplateError as error:
            self.add_error("example_lines", error.reasons)
        if latest and not cleaned["examples"] and latest.fields == cleaned["fields"]:
            cleaned["examples"] = latest.examples
        return None

    def _with_labels(self, fields: list[dict[str, Any]], latest: AdapterVersion | None) -> list[dict[str, Any]]:
        """`fields` with the labels and rows that the latest version gave to those of the same name."""
        known = {field["name"]: field for field in latest.fields} if latest else {}
        return [known.get(field["name"], field) for field in fields]

    def _receive(self, cleaned: dict[str, Any]) -> None:
        """Put the files into quarantine, once everything else on the form is right."""
        config, weights, archive = (cleaned.get(name) for name in ("config_file", "weights_file", "archive"))
        if bool(archive) == bool(config or weights) or bool(config) != bool(weights):
            return self.add_error(
                "config_file", f"Choose {store.CONFIG} and {store.WEIGHTS}, or one .zip of exactly these two."
            )
        try:
            cleaned["token"] = store.receive(_files(config, weights, archive))
        except (ArchiveRefused, store.TooLarge) as error:
            where = "archive" if archive else "weights_file"
            self.add_error(where, error.reasons if isinstance(error, ArchiveRefused) else f"Too large: {error}.")
        return None

    def _card(self) -> Card:
        cleaned = self.cleaned_data
        texts = {key: cleaned.get(key, "") for key in TEXTS}
        return Card(**texts, template=cleaned["template"], fields=cleaned["fields"], examples=cleaned["examples"])


def _files(config: Upload | None, weights: Upload | None, archive: Upload | None) -> dict[str, Iterable[bytes]]:
    """The chunks of the two files. The names that the browser sent are never used."""
    if archive:
        return read_archive(cast("IO[bytes]", archive))
    assert config is not None
    assert weights is not None
    return {store.CONFIG: config.chunks(), store.WEIGHTS: weights.chunks()}
