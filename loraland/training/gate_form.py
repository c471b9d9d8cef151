"""What an owner decides before a blend's gate learns: its kind, the adapters that it weighs, and its few numbers."""

from __future__ import annotations

from typing import Any, Final

from django import forms

from inference.model.architecture import Architecture, untrained
from inference.tasks.gate_recipe import GATE_LIMITS, OF_ONE, SCHEDULES, GateRecipe
from loraland.catalogue.composition import MAX_PARTS, Composition, base_of
from loraland.catalogue.upload.assembling import BlendRefused, assembled
from loraland.catalogue.upload.bases import architecture_of
from loraland.catalogue.upload.blend_form import Parts
from loraland.training.forms import TrainingForm
from loraland.training.models import Training

ADAPTERS: Final = ("rank", "target_modules", "nola_basis", "invocation")
OWN: Final = ("start", "temperature", "g", "dropout", "top_k")


class GateForm(TrainingForm):
    """All choices of a gate's training; the kind of gate is the preset. Rows, prompt and score are as an adapter's."""

    target_modules = nola_basis = invocation = None  # type: ignore[assignment]
    weighed = Parts(
        required=False,
        label="Parts",
        help_text=f"2 to {MAX_PARTS} published adapters, in order: slugs, or slug@digest for another version.",
    )
    start = forms.CharField(
        required=False, label="Start", help_text="The part with which alone it begins, as above; the first if empty."
    )
    temperature = forms.FloatField(label="Temperature", help_text="Below 1 the best part counts more, above 1 less.")
    g = forms.IntegerField(label="Width of keys", help_text="How many numbers a part is compared by.")
    dropout = forms.FloatField(label="Dropout", help_text="How often a part is left out while it learns.")
    top_k = forms.IntegerField(label="How many count", help_text="Of the parts, at each token; 0 for all.")
    numbers = ("steps", "batch", "learning_rate", "temperature", "g", "dropout", "top_k", "max_length")
    is_of_gate = True

    class Meta(TrainingForm.Meta):
        fields = tuple(name for name in TrainingForm.Meta.fields if name not in ADAPTERS)  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.blend: Composition | None = None
        foreign = {name for kind, names in OF_ONE.items() if kind != self.preset for name in names}
        for name in foreign & self.fields.keys():
            del self.fields[name]
        limits = GATE_LIMITS | {"top_k": (0, MAX_PARTS)}
        self._bound({name: limits[name] for name in OWN if name in limits and name in self.fields})

    def _before(self, training: Training) -> dict[str, Any]:
        own = {name: training.gate[name] for name in OWN if name in training.gate}
        own |= {"weighed": training.gate["names"]}
        if "start" in own:
            own["start"] = training.gate["names"][training.gate["parts"].index(own["start"])]
        return super()._before(training) | own

    def _numbers(self, preset: str) -> dict[str, Any]:
        schedule = vars(next(each for kind, each in SCHEDULES.items() if kind == preset))
        proposed = {name: schedule[name] for name in ("steps", "batch", "learning_rate")}
        return proposed | {name: vars(GateRecipe)[name] for name in OWN}

    def _offer_targets(self, architecture: Architecture | None) -> None:
        """Those of its parts are what it weighs."""

    def _shape(self, training: Training) -> None:
        cleaned, blend = self.cleaned_data, self.blend
        assert blend is not None
        digests = [version.digest for version in blend.versions]
        own = {name: cleaned[name] for name in OWN if name in cleaned}
        if "start" in own:
            own["start"] = digests[cleaned["weighed"].index(own["start"] or cleaned["weighed"][0])]
        names = [str(version) for version in blend.versions]
        training.gate = {"kind": self.preset, "parts": digests, "names": names, **own}
        training.rank = blend.rank
        training.target_modules = sorted({name for version in blend.versions for name in version.target_modules})

    def _clean_method(self, cleaned: dict[str, Any]) -> None:
        """The parts, as a worker would take them together, and whether gates learn on their base here."""
        architecture, names = architecture_of(self.of_base), cleaned.get("weighed") or []
        if architecture and (beyond := untrained(architecture, cleaned.get("max_length", 0))):
            reason = f"{self.of_base.name} learns LoRAs alone here, for it has {', '.join(beyond)}; Arrow blends them."
            return self.add_error("weighed", reason)
        try:
            self.blend = assembled(None, names)
        except BlendRefused as error:
            return self.add_error("weighed", error.reasons)
        if (base := base_of(self.blend)) != self.of_base:
            reason = f"These parts are for {base.name}, and the gate would learn on {self.of_base.name}"
            self.add_error("weighed", f"{reason}; choose their base, or other parts.")
        if (start := cleaned.get("start")) and start not in names:
            self.add_error(
                "start", f"{start} is none of the parts; write one of {', '.join(names)} as it stands there."
            )
        return None
