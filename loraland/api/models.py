"""Keys with which a program calls the API."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from django.conf import settings
from django.db import models
from django.utils import timezone

PREFIX: Final = "ll_"


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def active(self) -> ApiKeyQuerySet:
        """Keys that are neither revoked nor expired."""
        return self.filter(revoked=None).exclude(expires__lte=timezone.now())

    def issue(self, name: str) -> tuple[ApiKey, str]:
        """Make a key and give back its secret, which is never kept in clear."""
        secret = PREFIX + secrets.token_urlsafe(32)
        return self.create(name=name, hash=hash_of(secret), last_four=secret[-4:]), secret


class ApiKey(models.Model):
    name = models.CharField(max_length=80)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE)
    hash = models.CharField(max_length=64, unique=True, editable=False)
    last_four = models.CharField(max_length=4, editable=False)
    created = models.DateTimeField(default=timezone.now, editable=False)
    expires = models.DateTimeField(null=True, blank=True)
    last_used = models.DateTimeField(null=True, blank=True, editable=False)
    revoked = models.DateTimeField(null=True, blank=True)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        ordering = ["-created"]

    def __str__(self) -> str:
        return f"{self.name} (…{self.last_four})"


def hash_of(secret: str) -> str:
    """The SHA-256 under which a key is kept; the secret has 256 bits of its own, so it needs no salt."""
    return hashlib.sha256(secret.encode()).hexdigest()
