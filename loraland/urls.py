"""The site's addresses."""

from __future__ import annotations

from allauth.account import views as accounts
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.templatetags.static import static
from django.urls import include, path

from loraland.playground import sign_in

handler429 = sign_in.too_many
handler500 = "loraland.broken.broken"


def favicon(request: HttpRequest) -> HttpResponse:
    """What browsers ask for on pages that name no icon, the admin's above all."""
    return redirect(static("img/mark.svg"), permanent=False)


urlpatterns = [
    path("favicon.ico", favicon),
    path("admin/login/", sign_in.admin_door),
    path("admin/", admin.site.urls),
    path("accounts/login/", sign_in.SignIn.as_view(), name="account_login"),
    path("accounts/logout/", accounts.logout, name="account_logout"),
    path("accounts/signup/", accounts.signup, name="account_signup"),
    path("accounts/inactive/", accounts.account_inactive, name="account_inactive"),
    path("", include("loraland.api.urls")),
    path("", include("loraland.playground.urls")),
    path("", include("loraland.evals.urls")),
    path("", include("loraland.catalogue.urls")),
]
