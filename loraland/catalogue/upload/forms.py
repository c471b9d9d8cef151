"""The admin's upload form: an adapter's files, and what people should know of it, on one page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any, cast

from django import forms
from django.contrib.admin.widgets import AdminTextareaWidget, AdminTextInputWidget
from django.core import signing
from django.core.files.uploadedfile import UploadedFile
from django.core.validators import RegexValidator
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import slugify

from inference.tasks.card import CARD, TEXTS, Card
from loraland import bases
from loraland.catalogue import card, store
from loraland.catalogue.invocation import fault_of
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.slug import refusal
from loraland.catalogue.template import TemplateError, fields_of, parse_examples
from loraland.catalogue.upload.archive import ArchiveRefused, Contents, read_archive
from loraland.catalogue.upload.bases import config_in, doubt_about_base, is_doubtful, likely_base, named_base
from loraland.catalogue.upload.companions import take
from loraland.catalogue.upload.finding import find_base
from loraland.catalogue.upload.submission import Submission, find, submit

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    ModelForm = forms.ModelForm[AdapterVersion]
    Upload = UploadedFile[bytes]
else:
    ModelForm = forms.ModelForm
    Upload = UploadedFile

LINE = AdminTextInputWidget
HELD = "loraland.catalogue.upload"
WITHOUT_PROMPT = (
    "Without the prompt that it was trained on it would be published as a free chat. Write the prompt, tick “It chats "
    "freely”, or untick “Publish when ready” and write it later."
)
NOT_A_PATH = RegexValidator(r"^[^/\\]*$", "Write a name without slashes.")


class BaseName(AdminTextInputWidget):
    """A name to write, where those of the bases that are served are offered."""

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        offered = format_html_join(SafeString(), '<option value="{}">', [(base.name,) for base in bases.served()])
        line = super().render(name, value, {**(attrs or {}), "list": f"{name}-served"}, renderer)
        return line + format_html('<datalist id="{}-served">{}</datalist>', name, offered)


class PromptForm(ModelForm):
    """The prompt of a version, its fields and its examples: written with an upload, or mended in place."""

    template = forms.CharField(
        required=False,
        strip=False,
        widget=AdminTextareaWidget({"rows": 8}),
        help_text="The prompt it was trained on, with {field} where an input goes. Without one it chats freely.",
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
        fields: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial.update(prompt_lines(self.instance.template, self.instance.field_names, self.instance.examples))

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        self._clean_prompt(cleaned, self.instance.fields)
        if self.instance.pk:
            self._check_invocation(cleaned, self.instance.config, self.instance.adapter.served_base)
        return cleaned

    def _check_invocation(self, cleaned: dict[str, Any], config: dict[str, Any], base: bases.Base) -> None:
        """A prompt of an aLoRA must hold what invokes it."""
        names = [field["name"] for field in cleaned["fields"]]
        if fault := fault_of(config, cleaned.get("template", ""), names, base):
            self.add_error("template", fault)

    def mend(self) -> bool:
        """Keep what was written; whether it changes what the weights read."""
        cleaned = self.cleaned_data
        return self.instance.mend(cleaned["template"], cleaned["fields"], cleaned["examples"])

    def _clean_prompt(self, cleaned: dict[str, Any], known: list[dict[str, Any]]) -> None:
        """`known` are fields whose labels and rows are kept for those of the same name."""
        template = cleaned.get("template", "").replace("\r\n", "\n")
        names = [name.strip() for name in cleaned.get("field_names", "").split(",") if name.strip()]
        cleaned.update(template=template, fields=[], examples=[])
        labelled = {field["name"]: field for field in known}
        try:
            cleaned["fields"] = [labelled.get(field["name"], field) for field in fields_of(template, names)]
        except TemplateError as error:
            return self.add_error("field_names" if names else "template", error.reasons)
        try:
            cleaned["examples"] = parse_examples(cleaned.get("example_lines", ""), cleaned["fields"])
        except TemplateError as error:
            self.add_error("example_lines", error.reasons)
        return None


def prompt_lines(template: str, names: Iterable[str], examples: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """A prompt as `PromptForm` shows it."""
    lines = [json.dumps(dict(example), ensure_ascii=False) for example in examples]
    return {"template": template, "field_names": ", ".join(names), "example_lines": "\n".join(lines)}


class UploadForm(PromptForm):
    """Two files or one .zip of them, for a new adapter or for a new version of one.

    A card in the .zip fills what is left empty. Files outlive a form that is refused: they are offered again to
    whoever sent them.
    """

    user_id: int | None = None
    """Who uploads: the admin gives each request a class of its own."""

    held = forms.CharField(required=False, widget=forms.HiddenInput)
    config_file = forms.FileField(required=False, label=store.CONFIG)
    weights_file = forms.FileField(required=False, label=mark_safe(store.WEIGHTS.replace("_", "_<wbr>")))
    archive = forms.FileField(
        required=False,
        label="or one .zip of the two",
        help_text=f"A {CARD} in it fills what you leave empty below; a score is measured here.",
    )

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
        widget=BaseName,
        validators=[NOT_A_PATH],
        help_text=f"Name of the base model; read from {store.CONFIG} if empty. The shapes of the tensors decide.",
    )

    base_confirmed = forms.BooleanField(
        required=False,
        label="Its base is right",
        help_text=f"Tick it when {store.CONFIG} names another base than the one that is served, and you want it so.",
    )

    chats_freely = forms.BooleanField(
        required=False,
        label="It chats freely",
        help_text="It was trained on conversations and has no prompt of its own.",
    )

    class Meta:
        model = AdapterVersion
        fields = ("publish_when_ready",)

    def full_clean(self) -> None:
        """Files first: what is wrong with the rest must not cost them."""
        self.token = ""
        self.card: Card | None = None
        self.ignored: tuple[str, ...] = ()
        self.remarks: list[str] = []
        self.faults: list[tuple[str, Any]] = []
        if self.is_bound:
            self.data: Any = self.data.copy()
            self._receive()
            self._fill_from_card()
        super().full_clean()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        for name, fault in self.faults:
            self.add_error(name, fault)
        cleaned["token"] = self.token
        if cleaned.get("adapter"):
            self._check_empty(
                cleaned, "name", "slug", "category", "summary", "description", "license", "author", "base"
            )
        else:
            self._check_new(cleaned)
        self._check_base(cleaned)
        if self.token:
            config, adapter = config_in(store.quarantined(self.token)), cleaned.get("adapter")
            self._check_invocation(cleaned, config, adapter.served_base if adapter else likely_base(config))
        is_bare = not cleaned.get("template", "refused already").strip() and not cleaned.get("chats_freely")
        if is_bare and cleaned.get("publish_when_ready"):
            self.add_error("template", WITHOUT_PROMPT)
        return cleaned

    def submit(self, user: User) -> Submission:
        """Make a version of the checked upload, or find the one that it repeats."""
        cleaned = self.cleaned_data
        adapter = cleaned.get("adapter")
        slug = adapter.slug if adapter else cleaned["slug"]
        told = {"publish": cleaned["publish_when_ready"], "base_confirmed": cleaned["base_confirmed"]}
        return submit(cleaned["token"], slug, self._card(), user=user, remarks=self.remarks, **told)

    def _check_base(self, cleaned: dict[str, Any]) -> None:
        """Ask which base is meant where nobody can tell, and for the tick where the config names another model of the
        same shape, before anything is made of the files."""
        files, adapter = store.quarantined(self.token) if self.token else None, cleaned.get("adapter")
        if files is None or not is_doubtful(config := config_in(files)):
            return
        if adapter and find(adapter.slug, store.digest_in(files)):
            return
        found = find_base(files, adapter.base if adapter else cleaned.get("base") or named_base(config))
        if found.question:
            return self.add_error("base", found.question)
        doubt = doubt_about_base(config, found.base) if found.base else ""
        if doubt and not found.examination.reasons and not cleaned.get("base_confirmed"):
            self.add_error("base_confirmed", f"{doubt} Tick this if it is to be served so.")

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

    def _clean_prompt(self, cleaned: dict[str, Any], known: list[dict[str, Any]]) -> None:
        """What is left empty for a new version is taken from the latest."""
        latest = cleaned["adapter"].versions.first() if cleaned.get("adapter") else None
        if latest and not cleaned.get("template", "").strip():
            cleaned["template"] = latest.template
            cleaned["field_names"] = cleaned.get("field_names") or ", ".join(latest.field_names)
            cleaned["chats_freely"] = cleaned.get("chats_freely") or not latest.template
        of_card: list[dict[str, Any]] = self.card.fields if self.card else []
        super()._clean_prompt(cleaned, [*(latest.fields if latest else []), *of_card])
        if latest and not cleaned["examples"] and latest.fields == cleaned["fields"]:
            cleaned["examples"] = latest.examples

    def _receive(self) -> None:
        """Put the files into quarantine, or find those that a refused form left there."""
        config, weights, archive = (self.files.get(name) for name in ("config_file", "weights_file", "archive"))
        held = self._held()
        if not (config or weights or archive) and held:
            return self._hold(held)
        if bool(archive) == bool(config or weights) or bool(config) != bool(weights):
            return self.faults.append(
                ("config_file", f"Choose {store.CONFIG} and {store.WEIGHTS}, or one .zip of exactly these two.")
            )
        try:
            contents = _contents(config, weights, archive)
            self.ignored = contents.ignored
            token = store.receive(contents.files)
            self.remarks = take(contents.companions, token)
            self._hold(token)
        except (ArchiveRefused, store.TooLarge) as error:
            where = "archive" if archive else "weights_file"
            said = error.reasons if isinstance(error, ArchiveRefused) else f"Too large: {error}."
            return self.faults.append((where, said))
        return store.drop(held)

    def _held(self) -> str:
        """The quarantine that this form names, if it is this person's, there yet, and no version's."""
        try:
            user_id, token, self.remarks = signing.loads(
                self.data.get("held", ""), salt=HELD, max_age=store.LEFT_SECONDS
            )
        except (signing.BadSignature, TypeError, ValueError):
            return ""
        is_free = user_id == self.user_id and store.quarantined(token).is_dir()
        return token if is_free and not AdapterVersion.objects.filter(quarantine=token).exists() else ""

    def _hold(self, token: str) -> None:
        self.token = token
        self.data["held"] = signing.dumps([self.user_id, token, self.remarks], salt=HELD)
        size = sum(path.stat().st_size for path in store.quarantined(token).iterdir()) / 1e6
        kept = f"Your files are here ({size:.1f} MB); choose others only to put them in their place."
        self.fields["config_file"].help_text = kept

    def _fill_from_card(self) -> None:
        """Let the card say what the form leaves empty; the texts of an adapter that is here stay its own."""
        path = store.quarantined(self.token) / CARD if self.token else None
        if path is None or not path.exists():
            return
        try:
            self.card = found = card.read_card(path)
        except card.CardError as error:
            return self.faults.append(("archive", error.reasons))
        texts = {} if self.data.get("adapter") else {key: getattr(found, key) for key in TEXTS}
        names = [field["name"] for field in found.fields]
        prompt = {} if self.data.get("template", "").strip() else prompt_lines(found.template, names, found.examples)
        for key, value in {**texts, **prompt}.items():
            if not self.data.get(key, "").strip():
                self.data[key] = value

    def _card(self) -> Card:
        cleaned = self.cleaned_data
        texts = {key: cleaned.get(key, "") for key in TEXTS}
        prompt = {name: cleaned[name] for name in ("template", "fields", "examples")}
        tables = ("dataset", "training", "embedding")
        made: dict[str, Any] = {name: getattr(self.card, name) for name in tables} if self.card else {}
        return Card(**texts, **prompt, **made)


def _contents(config: Upload | None, weights: Upload | None, archive: Upload | None) -> Contents:
    """The chunks of the files. The names that the browser sent are never used."""
    if archive:
        return read_archive(cast("IO[bytes]", archive))
    assert config is not None
    assert weights is not None
    return Contents({store.CONFIG: config.chunks(), store.WEIGHTS: weights.chunks()})
