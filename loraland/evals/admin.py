"""Data sets in the admin: upload, see every reason against it, or what fine-tuning on it is likely to gain."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from loraland import bases
from loraland.catalogue import distant, store
from loraland.evals.forecast import FEWEST, forecast, known
from loraland.evals.heuristics import NAMES, heuristics
from loraland.evals.jsonl import MOST_BYTES, Examined, examine, examine_test, lines_of
from loraland.evals.models import DataSet
from loraland.evals.templatetags.figures import signed

if TYPE_CHECKING:
    DataSetAdminBase = admin.ModelAdmin[DataSet]
    ModelForm = forms.ModelForm[DataSet]
else:
    DataSetAdminBase, ModelForm = admin.ModelAdmin, forms.ModelForm


class DataSetForm(ModelForm):
    """A name and a file of JSON lines."""

    file = forms.FileField(
        label="JSON lines",
        help_text='One row a line, all with the same fields: {"inputs": {"text": "What a day!"}, "target": "joy"}',
    )

    test_file = forms.FileField(
        required=False,
        label="Test rows",
        help_text="To be scored on and never trained on. Without them up to a fifth of the rows is held out.",
    )

    class Meta:
        model = DataSet
        fields = ("name",)

    examined: Examined
    examined_test: Examined | None = None

    def clean_file(self) -> Any:
        file = _of_right_size(self.cleaned_data["file"])
        self.examined = examine(lines_of(cast("IO[bytes]", file)))
        if self.examined.reasons:
            raise forms.ValidationError(self.examined.reasons)
        return file

    def clean_test_file(self) -> Any:
        file = self.cleaned_data["test_file"]
        if file and "file" in self.cleaned_data:
            lines = lines_of(cast("IO[bytes]", _of_right_size(file)))
            self.examined_test = examine_test(lines, self.examined)
            if self.examined_test.reasons:
                raise forms.ValidationError(self.examined_test.reasons)
        return file

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not self.errors and (known := DataSet.objects.filter(digest=self._digest()).first()):
            self.add_error("file", f"These are exactly the rows of {known}, which is here already.")
        return cleaned

    def save(self, commit: bool = True) -> DataSet:
        found, data = self.examined, self.instance
        data.digest, data.fields, data.rows = self._digest(), found.fields, len(found.rows)
        data.heuristics = heuristics(found.rows)
        data.path.parent.mkdir(parents=True, exist_ok=True)
        _keep(self.cleaned_data["file"], data.path)
        if self.examined_test:
            data.test_rows = len(self.examined_test.rows)
            _keep(self.cleaned_data["test_file"], data.test_path)
        kept = [data.path, data.test_path] if self.examined_test else [data.path]
        distant.give_rows(data.digest, [path.name for path in kept])
        saved: DataSet = super().save(commit)
        return saved

    def _digest(self) -> str:
        """The SHA-256 of the rows; with a test part, of the two digests."""
        if self.examined_test is None:
            return self.examined.digest
        return hashlib.sha256(f"{self.examined.digest} {self.examined_test.digest}".encode()).hexdigest()


def _of_right_size(file: Any) -> Any:
    if file.size > (most := min(MOST_BYTES, store.max_bytes())):
        raise forms.ValidationError(f"The file has {file.size >> 20} MB; rows may have {most >> 20} MB.")
    return file


def _keep(file: Any, path: Path) -> None:
    """Write the uploaded `file` to `path`, whole or not at all."""
    file.seek(0)
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as kept:
            shutil.copyfileobj(file, kept)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@admin.register(DataSet)
class DataSetAdmin(DataSetAdminBase):
    """Adding a data set is an upload; its rows never change after that."""

    list_display = ("name", "rows", "created", "short_forecast")
    fields = ("name", "shown_rows", "shown_fields", "forecast", "shown_heuristics", "digest", "created", "created_by")

    def get_form(self, request: HttpRequest, obj: DataSet | None = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, **kwargs) if obj else DataSetForm

    def get_fields(self, request: HttpRequest, obj: DataSet | None = None) -> Any:
        return self.fields if obj else ("name", "file", "test_file")

    def get_readonly_fields(self, request: HttpRequest, obj: DataSet | None = None) -> Any:
        return self.fields[1:] if obj else ()

    def save_model(self, request: HttpRequest, obj: DataSet, form: Any, change: bool) -> None:
        if not change:
            obj.created_by_id = request.user.pk
        super().save_model(request, obj, form, change)
        parts = [part for part in (form.examined, form.examined_test) if part] if not change else []
        if num_repeats := sum(part.num_repeats for part in parts):
            told = (
                "1 line repeats another one and was"
                if num_repeats == 1
                else f"{num_repeats} lines repeat others and were"
            )
            self.message_user(request, f"{told} left out.")
        if part := next((part for part in parts if part.num_disputed), None):
            told = "1 question has" if part.num_disputed == 1 else f"{part.num_disputed} questions have"
            sentence = (
                f"{told} several answers, such as “{part.disputed}”. All rows are kept; "
                "where only one answer is right, mend the others, as no adapter can give both."
            )
            self.message_user(request, sentence, messages.WARNING)

    def response_add(self, request: HttpRequest, obj: DataSet, post_url_continue: str | None = None) -> Any:
        response = super().response_add(request, obj, post_url_continue)
        if "_addanother" in request.POST:
            return response
        return HttpResponseRedirect(reverse("admin:evals_dataset_change", args=[obj.pk]))

    @admin.display(description="rows")
    def shown_rows(self, data: DataSet) -> str:
        held_out = f"{data.test_rows} test rows" if data.test_rows else "up to a fifth of them is held out as test rows"
        return f"{data.rows}; {held_out}"

    @admin.display(description="fields")
    def shown_fields(self, data: DataSet) -> str:
        return ", ".join(data.fields)

    @admin.display(description="likely gain")
    def forecast(self, data: DataSet) -> SafeString | str:
        """What fine-tuning on it is likely to gain, with the error of such forecasts."""
        base = bases.default()
        found = forecast(data.heuristics, base)
        if found is None:
            return f"Not known: {len(known(base.name))} tasks are measured on {base.name}, a forecast takes {FEWEST}."
        return format_html(
            "<strong>{} points</strong>, 95 % from {} to {}. Over {} measured tasks, each left out in turn, forecasts "
            'err by {} points and the average gain by {}; the better of the two is shown. <a href="{}">How</a>',
            *(signed(found.gain), signed(found.low), signed(found.high), found.tasks),
            *(f"{found.error:.1f}", f"{found.mean_error:.1f}", reverse("complexity")),
        )

    @admin.display(description="likely gain")
    def short_forecast(self, data: DataSet) -> str:
        found = forecast(data.heuristics, bases.default())
        return f"{signed(found.gain)} points" if found else "not known"

    @admin.display(description="how it looks")
    def shown_heuristics(self, data: DataSet) -> SafeString:
        rows = [(label, data.heuristics[name]) for name, label in NAMES.items() if name in data.heuristics]
        return format_html_join(SafeString("<br>"), "{}: {}", rows)
