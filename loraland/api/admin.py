"""Keys in the admin: made there or in the shell, shown once, revoked for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils import timezone

from loraland.api.models import ApiKey

if TYPE_CHECKING:
    KeyAdmin = admin.ModelAdmin[ApiKey]
else:
    KeyAdmin = admin.ModelAdmin


@admin.register(ApiKey)
class ApiKeyAdmin(KeyAdmin):
    list_display = ("name", "masked", "user", "created", "last_used", "expires", "revoked", "may_load")
    list_filter = ("revoked", "may_load")
    search_fields = ("name", "last_four")
    fields = ("name", "user", "may_load", "expires", "masked", "created", "last_used", "revoked")
    readonly_fields = ("masked", "created", "last_used", "revoked")
    actions = ("revoke",)

    @admin.display(description="key")
    def masked(self, key: ApiKey) -> str:
        return f"ll_…{key.last_four}" if key.last_four else ""

    @admin.action(description="Revoke the selected keys", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        revoked = queryset.filter(revoked=None).update(revoked=timezone.now())
        self.message_user(request, f"{revoked} keys revoked; requests with them are refused from now on.")

    def save_model(self, request: HttpRequest, obj: ApiKey, form: ModelForm, change: bool) -> None:  # type: ignore[type-arg]
        if change:
            super().save_model(request, obj, form, change)
            return
        secret = obj.seal()
        super().save_model(request, obj, form, change)
        self.message_user(request, f"Copy the key now, it is not shown again: {secret}", messages.WARNING)

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return False  # revoked keys stay, so that their answers can be told apart
