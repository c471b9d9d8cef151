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
    def issue(self, name: str) -> tuple[ApiKey, str]:
        """Make a key and give back its secret, which is never kept in clear."""
        key = self.model(name=name)
        secret = key.seal()
        key.save(using=self.db, force_insert=True)
        return key, secret


class ApiKey(models.Model):
    name = models.CharField(max_length=80)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE)
    hash = models.CharField(max_length=64, unique=True, editable=False)
    last_four = models.CharField(max_length=4, editable=False)
    created = models.DateTimeField(default=timezone.now, editable=False)
    may_load = models.BooleanField(
        "may load adapters",
        default=False,
        help_text="By /v1/load_lora_adapter, and replace those that its owner loaded; all, for staff.",
    )
    expires = models.DateTimeField(null=True, blank=True)
    last_used = models.DateTimeField(null=True, blank=True, editable=False)
    revoked = models.DateTimeField(null=True, blank=True)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        ordering = ["-created"]
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} (…{self.last_four})"

    @property
    def is_active(self) -> bool:
        """Whether it is neither revoked nor expired, and its owner, whom it comes with, may still come in."""
        is_expired = self.expires is not None and self.expires <= timezone.now()
        return self.revoked is None and not is_expired and (self.user is None or self.user.is_active)

    def seal(self) -> str:
        """Draw a new secret for this key and give it back; the row keeps its hash and last four characters."""
        secret = PREFIX + secrets.token_urlsafe(32)
        self.hash, self.last_four = hash_of(secret), secret[-4:]
        return secret


def hash_of(secret: str) -> str:
    """The SHA-256 under which a key is kept; the secret has 256 bits of its own, so it needs no salt."""
    return hashlib.sha256(secret.encode()).hexdigest()
