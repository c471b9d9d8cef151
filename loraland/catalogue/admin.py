"""The catalogue in the admin: upload, watch the examination, publish, retire, validate again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from loraland.catalogue import blends, store
from loraland.catalogue.models import Adapter, AdapterVersion, NotPossible
from loraland.catalogue.tasks import revalidate, validate_version
from loraland.catalogue.upload.blend_form import BlendForm
from loraland.catalogue.upload.forms import UploadForm
from loraland.catalogue.upload.hub import HubError
from loraland.catalogue.upload.layout import told
from loraland.catalogue.upload.offered import KINDS, PART, names, options
from loraland.catalogue.upload.prompt_form import PromptForm
from loraland.catalogue.upload.published_import import fetch_published
from loraland.paper import published

if TYPE_CHECKING:
    AdapterAdminBase = admin.ModelAdmin[Adapter]
    VersionAdminBase = admin.ModelAdmin[AdapterVersion]
else:
    AdapterAdminBase = VersionAdminBase = admin.ModelAdmin

WEIGHTS = ("digest", "same_digest", "rank", "lora_alpha", "target_modules", "num_parameters", "megabytes", "in_blends")
GATED = ("digest", "same_digest", "shown_gate", "shown_parts", "rank", "target_modules", "num_parameters", "megabytes")
FILES = ("config_file", "weights_file", "archive", "publish_when_ready", "held")
TO_BLEND = SafeString('Adapters that are here already answer together in <a href="?kind=blend">a blend</a>.')
TOLD = ("name", "slug", "category", "summary", "description", "license", "author")
PROMPT = ("template", "field_names", "example_lines")

admin.site.site_header = admin.site.site_title = "LoRA Land"


@admin.register(Adapter)
class AdapterAdmin(AdapterAdminBase):
    """The texts of an adapter. One comes into being by an upload, which makes its first version."""

    list_display = ("name", "slug", "category", "base", "shown_version")
    list_filter = ("category", "base")
    list_select_related = ("published",)
    show_full_result_count = False
    search_fields = ("name", "slug", "summary")
    fields = ("name", "slug", "category", "summary", "description", "license", "author", "dataset", "base", "versions")
    readonly_fields = ("slug", "base", "versions")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Adapter | None = None) -> bool:
        """Only an adapter without versions can go: answers refer to versions."""
        return super().has_delete_permission(request, obj) and (obj is None or not obj.versions.exists())

    @admin.display(description="published version")
    def shown_version(self, adapter: Adapter) -> str:
        return adapter.published.short_digest if adapter.published else "none"

    @admin.display(description="versions")
    def versions(self, adapter: Adapter) -> SafeString:
        return _linked(adapter.versions.select_related("adapter"))


@admin.register(AdapterVersion)
class AdapterVersionAdmin(VersionAdminBase):
    """Adding a version is an upload; after that it changes by actions only."""

    list_display = ("__str__", "status", "rank", "megabytes", "shown_delta", "created")
    list_filter = ("status",)
    list_select_related = ("adapter",)
    show_full_result_count = False
    search_fields = ("digest", "adapter__slug", "adapter__name")
    actions = ("publish", "retire", "validate_again")
    upload_fieldsets = (
        ("Files", {"fields": FILES, "description": TO_BLEND}),
        (
            "Adapter",
            {"fields": ("adapter", *TOLD, "base", "base_confirmed")},
        ),
        ("Prompt", {"fields": ("template", "chats_freely", "field_names", "example_lines")}),
    )
    blend_fieldsets = (
        ("What weighs them", {"fields": ("gate_file", "top_k", "temperature", "publish_when_ready", "held")}),
        ("Adapters that answer together", {"fields": ("parts",)}),
        ("Blend", {"fields": ("adapter", *TOLD, "base_confirmed")}),
        ("Prompt", {"fields": ("template", "chats_freely", "field_names", "example_lines")}),
    )
    view_fieldsets = (
        (None, {"fields": ("adapter", "status", "all_reasons", "proof_due", "logit_delta", "publish_when_ready")}),
        ("What to know", {"fields": ("shown_base", "all_remarks")}),
        ("Weights", {"fields": WEIGHTS}),
        ("Prompt", {"fields": ("template", "shown_fields", "shown_examples")}),
        ("History", {"fields": ("created", "created_by", "published_at", "training", "score", "config")}),
    )

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view
        offered = path("offered/<slug:kind>/", view(self.offered), name="catalogue_offered")
        address = path("published/", view(self.published), name="catalogue_published")
        return [address, offered, *super().get_urls()]

    def offered(self, request: HttpRequest, kind: str) -> HttpResponse:
        """The names of a kind that fit what somebody writes, for a datalist. Those that no page shows are not told to
        who may not see versions."""
        if kind not in KINDS:
            raise Http404(f"There are no names of {kind!r}; there are some of {', '.join(KINDS)}.")
        if kind != PART and not self.has_view_permission(request):
            raise PermissionDenied
        return HttpResponse(options(names(kind, request.GET.get("q", ""))))

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        title = "Upload a blend" if _is_for_blend(request) else "Upload an adapter"
        return super().add_view(request, form_url, {"title": title, **(extra_context or {})})

    def published(self, request: HttpRequest) -> HttpResponse:
        """The adapters published beside the paper; each is fetched from the hub by one click."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            return self._fetch(request)
        every = published.published()
        here = {*Adapter.objects.filter(slug__in=[entry.slug for entry in every]).values_list("slug", flat=True)}
        rows = [(entry, entry.slug in here) for entry in every]
        context = {**self.admin_site.each_context(request), "title": "Adapters of the paper", "rows": rows}
        return render(request, "admin/catalogue/published.html", {**context, "base": published.BASE})

    def _fetch(self, request: HttpRequest) -> HttpResponse:
        entry = published.find(request.POST.get("repository", ""))
        if entry is None:
            raise Http404("no such adapter was published")
        template = request.POST.get("template", "").replace("\r\n", "\n").strip()
        try:
            submission = fetch_published(entry, template, request.user)  # type: ignore[arg-type]
        except (HubError, store.TooLarge) as error:
            messages.error(request, str(error))
            return HttpResponseRedirect(reverse("admin:catalogue_published"))
        if submission.is_new:
            validate_version.delay_on_commit(submission.version.pk)
        messages.success(
            request, f"Fetched {entry.repository}. It is examined now; reload this page to see the outcome."
        )
        return HttpResponseRedirect(_address(submission.version))

    def get_form(
        self, request: HttpRequest, obj: AdapterVersion | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        if obj is None:
            form = BlendForm if _is_for_blend(request) else UploadForm
            return type(form.__name__, (form,), {"user_id": request.user.pk})
        may_mend = self.has_change_permission(request, obj)
        return PromptForm if may_mend else super().get_form(request, obj, change, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: AdapterVersion | None = None) -> Any:
        if obj is None:
            return self.blend_fieldsets if _is_for_blend(request) else self.upload_fieldsets
        parts = dict(self.view_fieldsets)
        if obj.gate:
            parts["Weights"] = {"fields": GATED}
        if self.has_change_permission(request, obj):
            told = "A prompt can be mended in place; the weights stay what they are."
            parts["Prompt"] = {"fields": PROMPT, "description": told}
        return [*parts.items()]

    def get_readonly_fields(self, request: HttpRequest, obj: AdapterVersion | None = None) -> Any:
        shown = [name for _, part in self.get_fieldsets(request, obj) for name in part["fields"]] if obj else []
        may_mend = obj is not None and self.has_change_permission(request, obj)
        return [name for name in shown if not (may_mend and name in PROMPT)]

    def has_view_permission(self, request: HttpRequest, obj: AdapterVersion | None = None) -> bool:
        return super().has_view_permission(request, obj) or super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: AdapterVersion | None = None) -> bool:
        """Only a rejected version can go, its files have gone before; any other is retired instead."""
        allowed = super().has_delete_permission(request, obj)
        return allowed and (obj is None or obj.status == AdapterVersion.Status.REJECTED)

    def save_form(self, request: HttpRequest, form: Any, change: bool) -> AdapterVersion:
        """Submit the upload at once: the version to show next may be one that exists."""
        if change:
            return form.instance  # type: ignore[no-any-return]
        form.submission = submission = form.submit(request.user)
        if submission.was_repaired:
            messages.warning(request, "The stored files were damaged; they were repaired from this upload.")
        if submission.twins:
            named = ", ".join(f"{twin.adapter.name} ({twin}, {twin.get_status_display()})" for twin in submission.twins)
            messages.warning(request, f"Other names have exactly these weights already: {named}.")
        if form.ignored:
            messages.info(request, told(form.ignored))
        for remark in form.remarks:
            messages.warning(request, remark)
        version: AdapterVersion = submission.version
        return version

    def save_model(self, request: HttpRequest, obj: AdapterVersion, form: Any, change: bool) -> None:
        if not change:
            if form.submission.is_new:
                validate_version.delay_on_commit(obj.pk)
        elif form.mend():
            messages.warning(
                request, "Its score was measured with the other prompt and is no longer shown; measure again."
            )

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        return None  # an upload has no related rows to save

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        if not add:
            return [{"changed": {"fields": [f"prompt; it was {form.initial['template']!r}"]}}]
        known = "" if form.submission.is_new else " It is in the catalogue already; nothing changed."
        return f"Uploaded for {form.submission.version.adapter.slug}.{known}"

    def response_add(
        self, request: HttpRequest, obj: AdapterVersion, post_url_continue: str | None = None
    ) -> HttpResponse:
        if obj.digest:
            messages.info(
                request, f"{obj} has exactly these weights already ({obj.get_status_display()}); nothing changed."
            )
        else:
            messages.success(request, "Received. It is examined now; reload to see the outcome.")
        return HttpResponseRedirect(_address(obj))

    @admin.action(description="Publish", permissions=["change"])
    def publish(self, request: HttpRequest, versions: QuerySet[AdapterVersion]) -> None:
        self._take_step(request, versions, AdapterVersion.publish, "Published.")
        for version in versions.filter(status=AdapterVersion.Status.PUBLISHED, template=""):
            messages.warning(request, f"{version} has no prompt: it chats freely. Its page here takes one.")

    @admin.action(description="Retire (answers under way finish)", permissions=["change"])
    def retire(self, request: HttpRequest, versions: QuerySet[AdapterVersion]) -> None:
        self._take_step(request, versions, AdapterVersion.retire, "Retired.")
        for version in versions.filter(status=AdapterVersion.Status.RETIRED):
            if found := [str(blend) for blend in blends.blends_with(version)]:
                messages.info(request, f"{version} goes on as a part of {', '.join(found)}.")

    @admin.action(description="Validate again", permissions=["change"])
    def validate_again(self, request: HttpRequest, versions: QuerySet[AdapterVersion]) -> None:
        self._take_step(request, versions, revalidate, "Sent to be validated again.")

    @admin.display(description="reasons")
    def all_reasons(self, version: AdapterVersion) -> SafeString | str:
        return _listed(version.reasons)

    @admin.display(description="base that its config names")
    def shown_base(self, version: AdapterVersion) -> str:
        said = "Its owner confirmed the base." if version.base_confirmed else ""
        return " ".join(filter(None, [version.base_doubt or version.named_base or "none", said]))

    @admin.display(description="remarks")
    def all_remarks(self, version: AdapterVersion) -> SafeString | str:
        return _listed(version.remarks)

    @admin.display(description="logit delta", ordering="logit_delta")
    def shown_delta(self, version: AdapterVersion) -> str:
        return "-" if version.logit_delta is None else f"{version.logit_delta:.2f}"

    @admin.display(description="size", ordering="size_bytes")
    def megabytes(self, version: AdapterVersion) -> str:
        return f"{version.size_bytes / 2**20:.2f}\N{NO-BREAK SPACE}MB"

    @admin.display(description="versions of this digest")
    def same_digest(self, version: AdapterVersion) -> SafeString | str:
        if not version.digest:
            return "not known yet"
        address = reverse("admin:catalogue_adapterversion_changelist", query={"digest": version.digest})
        number = AdapterVersion.objects.filter(digest=version.digest).count()
        return format_html('<a href="{}">{}</a>', address, number)

    @admin.display(description="weighed by")
    def shown_gate(self, version: AdapterVersion) -> str:
        gate = blends.gate_of(version)
        if gate is None:
            return "nothing: it is no blend"
        chosen = f"the best {gate.top_k} at each token, temperature {gate.temperature:g}"
        return f"{version.method}, {f'gate {gate.digest}' if gate.digest else chosen}"

    @admin.display(description="parts")
    def shown_parts(self, version: AdapterVersion) -> SafeString:
        return _linked(blends.parts_of(version))

    @admin.display(description="in blends")
    def in_blends(self, version: AdapterVersion) -> SafeString | str:
        return _linked(blends.blends_with(version)) or "none"

    @admin.display(description="fields")
    def shown_fields(self, version: AdapterVersion) -> str:
        return ", ".join(version.field_names) or "none: free chat"

    @admin.display(description="examples")
    def shown_examples(self, version: AdapterVersion) -> str:
        return "\n".join(json.dumps(example, ensure_ascii=False) for example in version.examples) or "none"

    def _take_step(
        self,
        request: HttpRequest,
        versions: QuerySet[AdapterVersion],
        step: Callable[[AdapterVersion], None],
        done: str,
    ) -> None:
        """Let each version take `step`, log it, and tell which could not and why."""
        for version in versions.select_related("adapter"):
            try:
                step(version)
            except NotPossible as error:
                messages.error(request, str(error))
            else:
                self.log_change(request, version, done)
                messages.success(request, f"{version}: {done}")


def _is_for_blend(request: HttpRequest) -> bool:
    return request.GET.get("kind") == "blend"


def _address(version: AdapterVersion) -> str:
    return reverse("admin:catalogue_adapterversion_change", args=[version.pk])


def _linked(versions: Iterable[AdapterVersion]) -> SafeString:
    rows = [(_address(version), str(version), version.get_status_display()) for version in versions]
    return format_html_join(SafeString("<br>"), '<a href="{}">{}</a> {}', rows)


def _listed(sentences: Iterable[str]) -> SafeString | str:
    """`sentences`, each with a mark before it."""
    items = format_html_join("", "<li>{}</li>", ([sentence] for sentence in sentences))
    return format_html('<ul class="sentences">{}</ul>', items) if items else "none"
