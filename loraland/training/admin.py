"""Trainings in the admin: plan one from a data set, watch it, cancel it, publish what it made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import models
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from django.urls import path, reverse

from inference.tasks.gate_recipe import SCHEDULES
from inference.wire.digits import whole
from loraland import bases
from loraland.catalogue.models import NotPossible
from loraland.evals.models import DataSet
from loraland.training import planning, presets, progress
from loraland.training.forms import TrainingForm
from loraland.training.gate_form import GateForm
from loraland.training.models import Training

if TYPE_CHECKING:
    TrainingAdminBase = admin.ModelAdmin[Training]
else:
    TrainingAdminBase = admin.ModelAdmin


@admin.register(Training)
class TrainingAdmin(TrainingAdminBase):
    """The list is the admin's own; planning and watching have pages in the dress of the site."""

    list_display = ("name", "base", "state", "progress", "data", "verdict", "created", "created_by")
    list_filter = ("state", "base")
    list_select_related = ("data", "run", "created_by")
    search_fields = ("name", "slug")

    def get_urls(self) -> list[Any]:
        def view(address: str, function: Any, name: str) -> Any:
            return path(address, self.admin_site.admin_view(function), name=f"training_training_{name}")

        return [
            view("add/preview/", self.preview, "preview"),
            view("<uuid:pk>/progress/", self.progress_view, "progress"),
            view("<uuid:pk>/cancel/", self.cancel, "cancel"),
            view("<uuid:pk>/hurry/", self.hurry, "hurry"),
            view("<uuid:pk>/publish/", self.publish, "publish"),
            view("<uuid:pk>/measure/", self.measure, "measure"),
            *super().get_urls(),
        ]

    def has_delete_permission(self, request: HttpRequest, obj: Training | None = None) -> bool:
        """A training under way is cancelled first: its server would not hear of a deletion."""
        return super().has_delete_permission(request, obj) and (obj is None or not obj.is_active)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        return {}  # deleting many would not ask each whether it has ended

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Plan a training on the data set that the address names, and begin it."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        data = _data_of(request)
        if data is None or not data.path.exists():
            lost = f"The rows of {data} are gone; upload them again." if data else "Choose the data set to train on."
            messages.warning(request, lost)
            return HttpResponseRedirect(reverse("admin:evals_dataset_changelist"))
        form = _form_of(request, data)
        if request.method == "POST" and form.is_valid():
            training = form.save_for(request.user)  # type: ignore[arg-type]
            self.log_addition(request, training, "Planned.")
            return HttpResponseRedirect(training.get_absolute_url())
        context = planning.context_of(form)
        page = "recipe" if request.headers.get("HX-Target") == "recipe" else "plan"
        return render(request, f"training/{page}.html", self.admin_site.each_context(request) | context)

    def preview(self, request: HttpRequest) -> HttpResponse:
        """The parts of the page that follow what is written in the form."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        data = _data_of(request)
        if data is None or request.method != "POST":
            raise Http404("There is no form to preview.")
        form = _form_of(request, data)
        form.is_valid()
        return render(request, "training/preview.html", planning.preview_of(form) | {"form": form, "is_part": True})

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Watch one training."""
        context = progress.context_of(self._seen(request, object_id))
        return render(request, "training/training.html", self.admin_site.each_context(request) | context)

    def progress_view(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        """The part of its page that changes."""
        return render(request, "training/progress.html", progress.context_of(self._seen(request, pk)))

    def cancel(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        training = self._changed(request, pk)
        if training.cancel():
            self.log_change(request, training, "Cancelled.")
        return HttpResponseRedirect(training.get_absolute_url())

    def hurry(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        """Let it compute beside the visitors' answers instead of behind them."""
        training = self._changed(request, pk)
        if training.hurry():
            self.log_change(request, training, "Raised above spare time.")
        return HttpResponseRedirect(training.get_absolute_url())

    def measure(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        """Go on with a measurement that was cut off."""
        training = self._changed(request, pk)
        if training.can_be_measured and training.measure_again():
            self.log_change(request, training, "Sent to be measured.")
        return HttpResponseRedirect(training.get_absolute_url())

    def publish(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        training = self._changed(request, pk)
        if not request.user.has_perm("catalogue.change_adapterversion") or training.version is None:
            raise PermissionDenied
        try:
            training.version.publish()
        except NotPossible as error:
            messages.error(request, str(error))
        else:
            self.log_change(request, training, "Published.")
        return HttpResponseRedirect(training.get_absolute_url())

    @admin.display(description="step")
    def progress(self, training: Training) -> str:
        return f"{training.step} of {training.steps}"

    @admin.display(description="outcome")
    def verdict(self, training: Training) -> str:
        return training.run.verdict if training.run else training.reason

    def _seen(self, request: HttpRequest, pk: UUID | str) -> Training:
        related = Training.objects.select_related("data", "version__adapter", "run", "created_by")
        training = get_object_or_404(related, pk=_uuid(pk))
        if not self.has_view_permission(request, training):
            raise PermissionDenied
        return training

    def _changed(self, request: HttpRequest, pk: UUID) -> Training:
        if request.method != "POST":
            raise Http404("Steps of a training are taken by its buttons.")
        training = self._seen(request, pk)
        if not self.has_change_permission(request, training):
            raise PermissionDenied
        return training


def _data_of(request: HttpRequest) -> DataSet | None:
    pk = request.GET.get("data", "")
    try:
        return DataSet.objects.filter(pk=whole(pk, models.BigAutoField.MAX_BIGINT)).first()
    except ValueError:
        return None


def _form_of(request: HttpRequest, data: DataSet) -> TrainingForm:
    """The form for `data`; `base` says what is trained on, `preset` fills its recipe or names a kind of gate, `like`
    fills all of it as in a training before."""
    like, named = request.GET.get("like", ""), request.GET.get("base", "")
    before = Training.objects.filter(pk=_uuid(like), data=data).first() if like else None
    sent = request.POST if request.method == "POST" else None
    kind = before.gate.get("kind") if before else None
    preset = (sent or request.GET).get("preset") or kind or presets.DEFAULT
    if (base := bases.of_name(named or (before.base if before else ""))) is None and named:
        raise Http404(f"There is no base {named!r}; there is {bases.names()}.")
    of_gate = preset in SCHEDULES
    if before and kind != (preset if of_gate else None):
        before = None
    return (GateForm if of_gate else TrainingForm)(data, sent, base, preset, before)


def _uuid(text: UUID | str) -> UUID:
    try:
        return text if isinstance(text, UUID) else UUID(text)
    except ValueError as error:
        raise Http404(f"{text!r} is no training.") from error
