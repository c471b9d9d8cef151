"""What an owner decides before a training: the prompt, the score, the recipe, and how the adapter is presented."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.utils.text import slugify

from inference.adapters.methods.nola import Nola
from inference.model.architecture import TARGETS, Architecture, untrained
from inference.tasks.lines import text_lines
from inference.tasks.metrics import METRICS
from inference.tasks.proposal import labels_of, max_answer, misfit, propose
from inference.tasks.recipe import Lora, misplaced, tasks
from inference.tasks.template import placeholders
from loraland import bases
from loraland.bases import BASE, Base
from loraland.catalogue import slug as slugs
from loraland.catalogue.categories import CATEGORIES
from loraland.catalogue.models import Adapter
from loraland.catalogue.template import TemplateError, fields_of, parse_examples
from loraland.catalogue.upload.bases import architecture_of
from loraland.evals.models import DataSet
from loraland.training import presets
from loraland.training.lengths import counter
from loraland.training.models import Training
from loraland.training.rows import Parts, parts_of

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    ModelForm = forms.ModelForm[Training]
else:
    ModelForm = forms.ModelForm

UNSERVED: Final = "%(value)s is not served here; what is begun now would be trained for the base that is shown."
LIMITS: Final = {"steps": (1, 20_000), "batch": (1, 128), "max_length": (32, 4096), "nola_basis": (0, 4096)}
"""Beside the highest rank that the workers of a base take; and no row is longer than the base reads."""


class TrainingForm(ModelForm):
    """All choices of a training on `base`, proposed from the rows of `data` or those of a training before."""

    base = forms.ChoiceField(required=False, error_messages={"invalid_choice": UNSERVED})
    metric = forms.ChoiceField(
        choices=[(name, metric.name) for name, metric in METRICS.items()], widget=forms.RadioSelect, label="Score"
    )
    category = forms.ChoiceField(choices=[(category.name, category.name) for category in CATEGORIES])
    target_modules = forms.MultipleChoiceField(widget=forms.CheckboxSelectMultiple, label="Linears that change")
    learning_rate = forms.FloatField(min_value=1e-7, max_value=0.1, label="Learning rate")
    template = forms.CharField(strip=False, widget=forms.Textarea({"rows": 5, "spellcheck": "false"}), label="Prompt")
    instruction = forms.CharField(max_length=2000, widget=forms.Textarea({"rows": 2}), label="Plain instruction")
    nola_basis = forms.IntegerField(
        min_value=0,
        required=False,
        initial=0,
        label="Random bases",
        help_text="0 for a LoRA. With 64 it is a NOLA, a file some 60 times as small, at ten times the rate or more.",
    )
    invocation = forms.CharField(
        strip=False,
        max_length=200,
        required=False,
        label="Invocation",
        help_text="Empty for a LoRA. These words of the prompt make it an aLoRA, which acts from them on.",
        widget=forms.Textarea({"rows": 2, "spellcheck": "false"}),
    )
    example_lines = forms.CharField(
        required=False, widget=forms.Textarea({"rows": 4, "spellcheck": "false"}), label="Example inputs"
    )
    slug = forms.SlugField(max_length=80, required=False)
    numbers: tuple[str, ...] = ("steps", "batch", "learning_rate", "rank", "max_length", "nola_basis")
    is_of_gate = False

    class Meta:
        model = Training
        fields = (
            *("name", "slug", "category", "summary", "template", "instruction", "metric"),
            *("steps", "batch", "learning_rate", "rank", "target_modules", "nola_basis"),
            *("invocation", "max_length"),
        )

    def __init__(
        self,
        data: DataSet,
        sent: Mapping[str, Any] | None = None,
        base: Base | None = None,
        preset: str = presets.DEFAULT,
        like: Training | None = None,
    ) -> None:
        self.rows_of, self.preset = data, preset
        self.of_base = bases.of_name(sent.get("base", "") if sent else "") or base or bases.default()
        self.parts: Parts = parts_of(data)
        architecture, limits = architecture_of(self.of_base), _limits(self.of_base)
        initial = self._before(like) if like else _proposed(data, self.parts, self.of_base) | self._numbers(preset)
        initial |= {"base": self.of_base.name, "max_length": min(initial["max_length"], limits["max_length"][1])}
        super().__init__(sent, initial=initial, label_suffix="")
        self.fields["base"].choices = [(each.name, each.name) for each in bases.served()]  # type: ignore[attr-defined]
        self._offer_targets(architecture)
        self._bound({name: bounds for name, bounds in limits.items() if name in self.fields})

    def clean_base(self) -> str:
        """The default one where nobody named any."""
        return self.cleaned_data["base"] or self.of_base.name

    def clean_template(self) -> str:
        template: str = self.cleaned_data["template"].replace("\r\n", "\n").rstrip()
        try:
            fields_of(template)
        except TemplateError as error:
            raise forms.ValidationError(error.reasons) from error
        if unknown := [name for name in placeholders(template) if name not in self.rows_of.fields]:
            known = ", ".join(f"{{{name}}}" for name in self.rows_of.fields)
            raise forms.ValidationError(f"The rows have no field {unknown[0]}; they have {known}.")
        return template

    def clean_nola_basis(self) -> int:
        """None are those of a LoRA."""
        return self.cleaned_data["nola_basis"] or 0

    def clean_invocation(self) -> str:
        invocation: str = self.cleaned_data["invocation"].replace("\r\n", "\n")
        return invocation

    def clean_metric(self) -> str:
        metric: str = self.cleaned_data["metric"]
        if reason := misfit(metric, (*self.parts.train, *self.parts.test)):
            raise forms.ValidationError(reason)
        return metric

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        cleaned["slug"] = slug = cleaned.get("slug") or slugify(cleaned.get("name", ""))[:80]
        if reason := refusal(slug, self.of_base, is_blend=self.is_of_gate):
            self.add_error("slug", reason)
        self._clean_method(cleaned)
        self._clean_examples(cleaned)
        return cleaned

    def save_for(self, user: User) -> Training:
        """The training that is to be made, waiting."""
        cleaned, training = self.cleaned_data, self.instance
        rows = (*self.parts.train, *self.parts.test)
        training.data, training.created_by, training.base = self.rows_of, user, self.of_base.name
        training.slug, training.examples = cleaned["slug"], cleaned["examples"]
        self._shape(training)
        training.labels = list(labels_of(rows)) if training.metric == "accuracy" else []
        training.many_lines = any("\n" in row.target.strip() for row in rows)
        training.max_answer = max_answer(rows, counter(self.of_base))
        lengths = self.parts.lengths(training.template, self.of_base)
        training.tokens = round(presets.tokens(training.recipe.schedule, lengths))
        training.save()
        return training

    def _before(self, training: Training) -> dict[str, Any]:
        """What was decided for `training`."""
        names = [*TrainingForm.Meta.fields]
        return {name: getattr(training, name) for name in names} | {"example_lines": _lines(training.examples)}

    def _numbers(self, preset: str) -> dict[str, Any]:
        """The fields that a preset fills."""
        return numbers_of(preset)

    def _offer_targets(self, architecture: Architecture | None) -> None:
        names = {name: _called(name, architecture) for name in (architecture.targets if architecture else TARGETS)}
        self.fields["target_modules"].choices = list(names.items())  # type: ignore[attr-defined]
        self.initial["target_modules"] = [name for name in self.initial["target_modules"] if name in names]

    def _bound(self, limits: Mapping[str, tuple[float, float]]) -> None:
        """Let each of these fields have its least and its most."""
        for name, (low, high) in limits.items():
            field = self.fields[name]
            field.validators += [MinValueValidator(low), MaxValueValidator(high)]
            field.widget.attrs |= {"min": low, "max": high}

    def _shape(self, training: Training) -> None:
        """Write down what is of the kind of thing that is trained."""
        training.target_modules = self.cleaned_data["target_modules"]

    def _clean_method(self, cleaned: dict[str, Any]) -> None:
        """What is trained besides a LoRA, where the base's gradients are computed here and the prompt has the words."""
        num_bases, invocation = cleaned.get("nola_basis", 0), cleaned.get("invocation", "")
        if not (num_bases or invocation):
            return
        architecture = architecture_of(self.of_base)
        if architecture and (beyond := untrained(architecture, cleaned.get("max_length", 0))):
            name = "nola_basis" if num_bases else "invocation"
            self.add_error(name, f"{self.of_base.name} learns LoRAs alone here, for it has {', '.join(beyond)}.")
        lora = Lora(nola_basis=num_bases, invocation=invocation or None)
        if "template" in cleaned and (reason := misplaced(lora, cleaned["template"])):
            self.add_error("invocation", f"{reason[0].upper()}{reason[1:]}.")
        if architecture and (reason := _too_many(architecture, num_bases, cleaned)):
            self.add_error("nola_basis", reason)

    def _clean_examples(self, cleaned: dict[str, Any]) -> None:
        """Examples of fields that the prompt leaves out are taken without those."""
        cleaned["examples"] = []
        if "template" not in cleaned:
            return
        fields, lines = fields_of(cleaned["template"]), cleaned.get("example_lines", "")
        unused = set(self.rows_of.fields) - {field["name"] for field in fields}
        try:
            known = "\n".join(_line_without(line, unused) for line in text_lines(lines))
            cleaned["examples"] = parse_examples(known, fields)
        except TemplateError as error:
            self.add_error("example_lines", error.reasons)


def _too_many(architecture: Architecture, num_bases: int, cleaned: Mapping[str, Any]) -> str:
    """Why no worker would load a NOLA of so many bases; empty where one would."""
    rank, targets = cleaned.get("rank"), cleaned.get("target_modules", ())
    if not (num_bases and rank):
        return ""
    shapes = [architecture.target_shape(target) for target in targets] * architecture.num_layers
    return f"{reason}." if (reason := Nola(rank, 2.0 * rank, num_bases, 1).excess(shapes)) else ""


def refusal(slug: str, base: Base, *, is_blend: bool = False) -> str:
    """Why an adapter trained here for `base`, or a blend, cannot be called `slug`; empty when it can."""
    if reason := slugs.refusal(slug):
        return reason
    if slug in tasks():
        return f"{slug} is a task of the bake-off, which has rows of its own; write another slug."
    if other := Training.objects.active().filter(slug=slug).exclude(base__iexact=base.name).first():
        return f"{slug} is being trained for {other.base} just now; write another slug to train for {base.name}."
    if other := Training.objects.filter(slug=slug).of_other_kind(is_blend=is_blend).first():
        return f"{slug} is {'a blend' if other.gate else 'an adapter'} trained here, and stays one; write another slug."
    adapter = Adapter.objects.filter(slug=slug).first()
    if adapter is None:
        return ""
    if adapter.is_served and adapter.is_settled and adapter.served_base != base:
        return f"{slug} is an adapter for {adapter.base}, and its versions are for one base; write another slug."
    if not Training.objects.filter(slug=slug).exists():
        return f"There is an adapter {slug} already that was not trained here; write another slug."
    return "" if adapter.is_served else adapter.unserved_reason


def free_slug(name: str) -> str:
    """A slug for `name` that may be used and is not."""
    slug = slugify(name)[:70] or "adapter"
    near = (model.objects.filter(slug__startswith=slug).values_list("slug", flat=True) for model in (Adapter, Training))
    taken = {BASE, *tasks(), *(name for names in near for name in names)}
    numbered = (f"{slug}-{number}" for number in range(2, len(taken) + 3))
    return next(free for free in (slug, *numbered) if free not in taken)


def numbers_of(preset: str) -> dict[str, Any]:
    """The fields that a preset fills."""
    chosen = presets.preset_of(preset)
    return {
        "steps": chosen.schedule.steps,
        "batch": chosen.schedule.batch,
        "learning_rate": chosen.schedule.learning_rate,
        "rank": chosen.lora.rank,
        "target_modules": list(chosen.lora.target_modules),
    }


def _limits(base: Base) -> dict[str, tuple[int, int]]:
    """The least and the most of each number, as far as `base` is known here."""
    low, high = LIMITS["max_length"]
    architecture = architecture_of(base)
    longest = max(low, min(high, architecture.max_position)) if architecture else high
    return LIMITS | {"rank": (1, base.max_rank), "max_length": (low, longest)}


def _called(target: str, architecture: Architecture | None) -> str:
    """`target`, and what the base calls it where that is another name: ``o_proj (dense)``."""
    name = architecture.published_name(target) if architecture else target
    return target if name == target else f"{target} ({name})"


def _proposed(data: DataSet, parts: Parts, base: Base) -> dict[str, Any]:
    found = propose(parts.train, parts.test, counter(base))
    return {
        "name": data.name,
        "slug": free_slug(data.name),
        "category": found.category,
        "template": found.template,
        "instruction": found.instruction,
        "metric": found.metric,
        "max_length": found.max_length,
        "example_lines": _lines(found.examples),
    }


def _lines(examples: list[dict[str, Any]]) -> str:
    """`examples` as the form shows them, one a line; in their longer form where a field is called like the answer."""
    shown = (
        example if "expected" in example["inputs"] else {**example["inputs"], "expected": example["expected"]}
        for example in examples
    )
    return "\n".join(json.dumps(example, ensure_ascii=False) for example in shown)


def _line_without(line: str, unused: set[str]) -> str:
    """`line` without the fields `unused`; what is no JSON object stays, to be refused with its reason."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(row, Mapping):
        return line
    kept = {key: value for key, value in row.items() if key not in unused}
    if isinstance(inputs := kept.get("inputs"), Mapping):
        kept["inputs"] = {key: value for key, value in inputs.items() if key not in unused}
    return json.dumps(kept, ensure_ascii=False)
