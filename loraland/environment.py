"""Reading environment variables for the settings: each reader refuses a bad value with a sentence."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from inference.bases import BaseError, base_key, base_models, own_value
from inference.objects.address import Address, AddressRefused, read_address
from inference.wire.digits import whole
from loraland.edge.addresses import Network


def text(name: str, default: str) -> str:
    return os.environ.get(name, "").strip() or default


def flag(name: str, default: bool) -> bool:
    value = text(name, "1" if default else "0").lower()
    if value not in {"0", "1", "true", "false"}:
        raise ImproperlyConfigured(f"{name}={value!r} is not a switch; use 1 or 0")
    return value in {"1", "true"}


def number(name: str, default: int, low: int, high: int) -> int:
    value = text(name, str(default))
    try:
        return whole(value, high, low)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name}={error}") from error


def bases() -> tuple[str, ...]:
    """The base models of the site, the default one first."""
    try:
        return base_models(os.environ)
    except BaseError as error:
        raise ImproperlyConfigured(str(error)) from error


def number_of_each(name: str, default: int, low: int, high: int, models: tuple[str, ...]) -> dict[str, int]:
    """A number for each base of `models` by its key: one for all, or others where ``base=number`` says so."""
    found = {}
    for key in map(base_key, models):
        try:
            found[key] = whole(own_value(name, text(name, ""), key, models) or str(default), high, low)
        except ValueError as error:
            told = str(error) if isinstance(error, BaseError) else f"{name}={error}"
            raise ImproperlyConfigured(told) from error
    return found


def choice(name: str, default: str, choices: tuple[str, ...]) -> str:
    value = text(name, default).lower()
    if value not in choices:
        raise ImproperlyConfigured(f"{name}={value!r} is not known; choose {', '.join(choices[:-1])} or {choices[-1]}")
    return value


def address(name: str, options: str) -> Address | None:
    """Where a store lies, with the `options` of the package that reaches it; None where nobody says."""
    try:
        return read_address(name, value, options) if (value := text(name, "")) else None
    except AddressRefused as error:
        raise ImproperlyConfigured(str(error)) from error


def words(name: str, default: str) -> list[str]:
    return [word.strip() for word in text(name, default).split(",") if word.strip()]


def origins(name: str) -> frozenset[str]:
    """Origins such as https://example.org, with commas between; ``*`` is every one."""
    found = [word.lower() for word in words(name, "")]
    for word in found:
        if word != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", word):
            raise ImproperlyConfigured(f"{name}: {word!r} is no origin; write one like https://example.org, or *")
    return frozenset(found)


def networks(name: str, default: str) -> tuple[Network, ...]:
    """Addresses such as 192.0.2.1 and networks such as 10.0.0.0/8, with commas between."""
    return tuple(_network(name, word) for word in words(name, default))


def _network(name: str, word: str) -> Network:
    try:
        return ipaddress.ip_network(word)
    except ValueError as error:
        raise ImproperlyConfigured(
            f"{name}: {word!r} is no address or network ({error}); write them like 192.0.2.1 or 10.0.0.0/8"
        ) from error


def secret(name: str, path: Path) -> str:
    """The secret in the variable `name`, else the one kept at `path`, which is made on first use."""
    if value := text(name, ""):
        return value
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(50))
    return path.read_text().strip()
