"""The one door through which users and staff come in, and what it says to those who try too often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allauth.account import views as accounts
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

from loraland.playground.accounts import TOO_MANY

if TYPE_CHECKING:
    from django import forms

MINUTE = 60


class SignIn(accounts.LoginView):  # type: ignore[misc]  # untyped upstream
    def form_invalid(self, form: forms.Form) -> HttpResponse:
        """Who must wait is told so in the status too, for programs that read nothing else."""
        response: HttpResponse = super().form_invalid(form)
        for error in form.non_field_errors().as_data():
            if error.code == TOO_MANY:
                response.status_code = 429
                response["Retry-After"] = str((error.params or {})["wait"])
        return response


def admin_door(request: HttpRequest, **more: Any) -> HttpResponse:
    """Lead whoever asks for the admin to the one door, and from there to where they wanted."""
    to = request.GET.get("next", "")
    if not url_has_allowed_host_and_scheme(to, {request.get_host()}, require_https=request.is_secure()):
        to = reverse("admin:index")
    if not request.user.is_authenticated:
        return redirect_to_login(to, reverse("account_login"))
    if not request.user.is_staff:
        raise PermissionDenied
    return redirect(to)


def too_many(request: HttpRequest) -> HttpResponse:
    """What is said to an address that signs in or up again and again, however it ends."""
    response = render(request, "429.html", status=429)
    response["Retry-After"] = str(MINUTE)
    return response
