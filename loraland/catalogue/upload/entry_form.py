"""What a form asks of everything that gets a name in the catalogue: what people should know of it, its prompt, and
files, which outlive a form that is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from django import forms
from django.contrib.admin.widgets import AdminTextareaWidget
from django.core import signing
from django.core.files.uploadedfile import UploadedFile
from django.utils.text import slugify

from inference.tasks.card import CARD, TEXTS, Card
from loraland.catalogue import card, store
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.slug import refusal
from loraland.catalogue.upload.archive import ArchiveRefused, Contents
from loraland.catalogue.upload.companions import take
from loraland.catalogue.upload.offered import NameInput
from loraland.catalogue.upload.prompt_form import LINE, PromptForm, prompt_lines

if TYPE_CHECKING:
    Upload = UploadedFile[bytes]
    AdapterChoice = forms.ModelChoiceField[Adapter]
else:
    Upload, AdapterChoice = UploadedFile, forms.ModelChoiceField

HELD: Final = "loraland.catalogue.upload"
WITHOUT_PROMPT: Final = (
    "Without the prompt that it was trained on it would be published as a free chat. Write the prompt, tick “It chats "
    "freely”, or untick “Publish when ready” and write it later."
)


class OfAdapter(AdapterChoice):
    """The adapter, by its slug, that this is a new version of; empty for a new one."""

    def __init__(self, widget: NameInput) -> None:
        super().__init__(
            Adapter.objects.none(),
            to_field_name="slug",
            required=False,
            widget=widget,
            label="New version of",
            help_text=(
                "Its slug; empty for a new one. What you leave empty below is then taken from its latest version."
            ),
            error_messages={"invalid_choice": "There is no %(value)s to add a version to; write another's slug."},
        )


class EntryForm(PromptForm):
    """A new adapter or blend, or a new version of one. A card fills what is left empty. Files outlive a form that is
    refused: they are offered again to whoever sent them.
    """

    first_file: ClassVar[str]
    """The field that tells which files are here."""
    card_file: ClassVar[str]
    """The field in whose file a card may be."""
    user_id: int | None = None
    """Who uploads: the admin gives each request a class of its own."""

    held = forms.CharField(required=False, widget=forms.HiddenInput)
    adapter = OfAdapter(NameInput("adapter"))
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
    chats_freely = forms.BooleanField(
        required=False,
        label="It chats freely",
        help_text="It was trained on conversations and has no prompt of its own.",
    )

    class Meta:
        model = AdapterVersion
        fields = ("publish_when_ready",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["adapter"].queryset = self._adapters()  # type: ignore[attr-defined]

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
            self._check_empty(cleaned, *filter(self.fields.__contains__, ("slug", *TEXTS)))
        else:
            self._check_new(cleaned)
        self._check_files(cleaned)
        if self._is_bare(cleaned) and cleaned.get("publish_when_ready"):
            self.add_error("template", WITHOUT_PROMPT)
        return cleaned

    def _is_bare(self, cleaned: dict[str, Any]) -> bool:
        """Whether it has no prompt, and nobody said that it needs none."""
        return not cleaned.get("template", "refused already").strip() and not cleaned.get("chats_freely")

    def _adapters(self) -> Any:
        """Those of which this can be a new version."""
        raise NotImplementedError

    def _contents(self) -> Contents | None:
        """What was chosen to be uploaded; None for nothing. Raises `ArchiveRefused`."""
        raise NotImplementedError

    def _check_files(self, cleaned: dict[str, Any]) -> None:
        """Refuse what is wrong with the files and the base, before anything is made of them."""
        raise NotImplementedError

    def _check_empty(self, cleaned: dict[str, Any], *names: str) -> None:
        for name in names:
            if cleaned.get(name):
                self.add_error(name, f"Leave this empty for a new version: {cleaned['adapter'].slug} keeps its own.")

    def _check_new(self, cleaned: dict[str, Any]) -> None:
        name = cleaned.get("name")
        if not name:
            return self.add_error("name", "Give it a name, or choose what this is a new version of.")
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
        held = self._held()
        try:
            contents = self._contents()
            if contents is None:
                return self._hold(held) if held else self._miss()
            self.ignored = contents.ignored
            token = store.receive(contents.files)
            self.remarks = take(contents.companions, token) if contents.companions else []
            self._hold(token)
        except (ArchiveRefused, store.TooLarge) as error:
            said = error.reasons if isinstance(error, ArchiveRefused) else f"Too large: {error}."
            return self.faults.append((self._file_at_fault(), said))
        return store.drop(held)

    def _miss(self) -> None:
        """Say that no file was chosen, where one has to be."""

    def _file_at_fault(self) -> str:
        return self.first_file

    @property
    def _salt(self) -> str:
        return f"{HELD}.{self.first_file}"

    def _held(self) -> str:
        """The quarantine that this form names, if it is this person's, there yet, and no version's."""
        try:
            user_id, token, self.remarks = signing.loads(
                self.data.get("held", ""), salt=self._salt, max_age=store.LEFT_SECONDS
            )
        except (signing.BadSignature, TypeError, ValueError):
            return ""
        is_free = user_id == self.user_id and store.quarantined(token).is_dir()
        return token if is_free and not AdapterVersion.objects.filter(quarantine=token).exists() else ""

    def _hold(self, token: str) -> None:
        self.token = token
        self.data["held"] = signing.dumps([self.user_id, token, self.remarks], salt=self._salt)
        size = sum(path.stat().st_size for path in store.quarantined(token).iterdir()) / 1e6
        kept = f"Your files are here ({size:.1f} MB); choose others only to put them in their place."
        self.fields[self.first_file].help_text = kept

    def _fill_from_card(self) -> None:
        """Let the card say what the form leaves empty; the texts of an adapter that is here stay its own."""
        path = store.quarantined(self.token) / CARD if self.token else None
        if path is None or not path.exists():
            return
        try:
            self.card = found = card.read_card(path)
        except card.CardError as error:
            return self.faults.append((self.card_file, error.reasons))
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
