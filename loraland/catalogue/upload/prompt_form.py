"""The admin's form of a prompt, its fields and its examples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.admin.widgets import AdminTextareaWidget, AdminTextInputWidget

from loraland import bases
from loraland.catalogue.invocation import fault_of
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.template import TemplateError, fields_of, parse_examples

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[AdapterVersion]
else:
    ModelForm = forms.ModelForm

LINE = AdminTextInputWidget


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
