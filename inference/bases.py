"""The base models of a site: what they are called, which is the default one, and settings that one has of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

DEFAULT_BASE_MODEL: Final = "SmolLM2-135M-Instruct"
_NAME: Final = re.compile(r"[\w.-]+")


class BaseError(ValueError):
    """Variables that name no bases which could be told apart; the message is a sentence."""


def base_name(text: str) -> str:
    """The name of the base model that `text` names, be it a hub id, a directory or a .gguf file."""
    return text.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")


def base_key(text: str) -> str:
    """That name as queues and settings have it: without case."""
    return base_name(text).lower()


def base_models(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The bases of the site, the default one first: those of BASE_MODELS, of which BASE_MODEL names the default, or
    that one alone. Raises `BaseError`.
    """
    one = environ.get("BASE_MODEL", "").strip()
    models = [word.strip() for word in environ.get("BASE_MODELS", "").split(",") if word.strip()]
    if not models:
        return _checked("BASE_MODEL", [one or DEFAULT_BASE_MODEL])
    _checked("BASE_MODELS", models)
    default = next((model for model in models if base_key(model) == base_key(one)), None) if one else models[0]
    if default is None:
        raise BaseError(f"BASE_MODEL={one} is none of BASE_MODELS={','.join(models)}; it is the default one of them")
    return (default, *(model for model in models if model != default))


def _checked(variable: str, models: Sequence[str]) -> tuple[str, ...]:
    for model in models:
        if not _NAME.fullmatch(base_name(model)):
            raise BaseError(f"{variable}={model} must end in a name of letters, digits, dots and dashes")
    keys = [base_key(model) for model in models]
    if twice := next((key for key in keys if keys.count(key) > 1), ""):
        raise BaseError(f"{variable} names two models called {twice}; bases are told apart by name, so rename a folder")
    return tuple(models)


def own_value(variable: str, text: str, base: str, models: Sequence[str]) -> str:
    """What `text` says for the base of the key `base`: of words with commas between, ``name=value`` holds for that one
    of `models` and a bare one for all that have none of their own. Empty where it says nothing. Raises `BaseError`.
    """
    keys, own, bare = [base_key(model) for model in models], dict[str, str](), list[str]()
    for word in filter(None, map(str.strip, text.split(","))):
        name, sign, value = word.rpartition("=")
        if sign and base_key(name) not in keys:
            names = ", ".join(map(base_name, models))
            raise BaseError(f"{variable}={word} is for a base that is not served; there are {names}")
        own |= {base_key(name): value.strip()} if sign else {}
        bare += [] if sign else [value]
    return own.get(base, ",".join(bare))
