"""The admin's upload form: an adapter's files, and what people should know of it, on one page."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any, cast

from django import forms
from django.contrib.admin.widgets import AdminTextInputWidget
from django.core.validators import RegexValidator
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from inference.tasks.card import CARD, TEXTS
from loraland import bases
from loraland.catalogue import store
from loraland.catalogue.models import Adapter
from loraland.catalogue.upload.archive import ArchiveRefused, Contents, read_archive
from loraland.catalogue.upload.bases import config_in, doubt_about_base, is_doubtful, likely_base, named_base
from loraland.catalogue.upload.entry_form import EntryForm
from loraland.catalogue.upload.finding import find_base
from loraland.catalogue.upload.submission import Submission, find, submit

if TYPE_CHECKING:
    from django.contrib.auth.models import User

NOT_A_PATH = RegexValidator(r"^[^/\\]*$", "Write a name without slashes.")

WANTED = f"Choose {store.CONFIG} and {store.WEIGHTS}, or one .zip of exactly these two."


class BaseName(AdminTextInputWidget):
    """A name to write, where those of the bases that are served are offered."""

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        offered = format_html_join(SafeString(), '<option value="{}">', [(base.name,) for base in bases.served()])
        line = super().render(name, value, {**(attrs or {}), "list": f"{name}-served"}, renderer)
        return line + format_html('<datalist id="{}-served">{}</datalist>', name, offered)


class UploadForm(EntryForm):
    """Two files or one .zip of them, for a new adapter or for a new version of one."""

    first_file = "config_file"
    card_file = "archive"

    config_file = forms.FileField(required=False, label=store.CONFIG)
    weights_file = forms.FileField(required=False, label=mark_safe(store.WEIGHTS.replace("_", "_<wbr>")))
    archive = forms.FileField(
        required=False,
        label="or one .zip of the two",
        help_text=f"A {CARD} in it fills what you leave empty below; a score is measured here.",
    )

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

    def _adapters(self) -> Any:
        return Adapter.objects.plain()

    def submit(self, user: User) -> Submission:
        """Make a version of the checked upload, or find the one that it repeats."""
        cleaned = self.cleaned_data
        adapter = cleaned.get("adapter")
        slug = adapter.slug if adapter else cleaned["slug"]
        told = {"publish": cleaned["publish_when_ready"], "base_confirmed": cleaned["base_confirmed"]}
        return submit(cleaned["token"], slug, self._card(), user=user, remarks=self.remarks, **told)

    def _check_files(self, cleaned: dict[str, Any]) -> None:
        self._check_base(cleaned)
        if self.token:
            config, adapter = config_in(store.quarantined(self.token)), cleaned.get("adapter")
            self._check_invocation(cleaned, config, adapter.served_base if adapter else likely_base(config))

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

    def _contents(self) -> Contents | None:
        """The chunks of the files. The names that the browser sent are never used."""
        config, weights, archive = (self.files.get(name) for name in ("config_file", "weights_file", "archive"))
        if not (config or weights or archive):
            return None
        if bool(archive) == bool(config or weights) or bool(config) != bool(weights):
            raise ArchiveRefused([WANTED])
        if archive:
            return read_archive(cast("IO[bytes]", archive))
        assert config is not None
        assert weights is not None
        return Contents({store.CONFIG: config.chunks(), store.WEIGHTS: weights.chunks()})

    def _miss(self) -> None:
        self.faults.append(("config_file", WANTED))

    def _file_at_fault(self) -> str:
        return "archive" if self.files.get("archive") else "weights_file"
