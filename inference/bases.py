"""The base models of a site: what they are called, which is the default one, and settings that one has of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

DEFAULT_BASE_MODEL: Final = "SmolLM2-135M-Instruct"
RESERVED: Final = "base"
"""What programs call the default one, whatever its name."""
_HUB_ID: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_GGUF: Final = re.compile(r"(-\d{5}-of-\d{5})?\.gguf$", re.IGNORECASE)
_NAME: Final = re.compile(r"\w[\w.-]{0,199}")


class BaseError(ValueError):
    """Variables that name no bases which could be told apart; the message is a sentence."""


def base_name(text: str) -> str:
    """The name of the base model that `text` names: a hub id, a directory, a .gguf file or the first part of one."""
    return _GGUF.sub("", text.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1])


def base_key(text: str) -> str:
    """That name as queues and settings have it: without case."""
    return base_name(text).lower()


def is_hub_id(text: str) -> bool:
    """Whether `text` is written like an owner and a model on the hub, which a folder may be as well."""
    return _HUB_ID.fullmatch(text) is not None


def named_among(models: Sequence[str], text: str) -> str | None:
    """The one of `models` that `text` names, by its last part alone in whatever case, or whole as it is written there;
    None where it names none: another model may end in the same name.
    """
    whole = _whole(text)
    is_name = "/" not in whole
    return next(
        (model for model in models if whole == _whole(model) or (is_name and base_key(whole) == base_key(model))), None
    )


def base_models(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The bases of the site, the default one first: those of BASE_MODELS, of which BASE_MODEL names the default, or
    that one alone. Raises `BaseError`.
    """
    one, several = environ.get("BASE_MODEL", "").strip(), environ.get("BASE_MODELS", "").strip()
    if not several:
        return _checked("BASE_MODEL", [one or DEFAULT_BASE_MODEL])
    models = _checked("BASE_MODELS", [word.strip() for word in several.split(",") if word.strip()])
    default = named_among(models, one) if one else models[0]
    if default is None:
        raise BaseError(
            f"BASE_MODEL={one} is none of BASE_MODELS={','.join(models)}; it is the default one of them, as it is "
            f"written there or by its name alone: {' or '.join(map(base_name, models))}"
        )
    others = tuple(model for model in models if model != default)
    if any(base_key(model) == RESERVED for model in others):
        told = f"{RESERVED} is what programs call the default one, {base_name(default)}"
        raise BaseError(f"BASE_MODELS names a model called {RESERVED}, and {told}; rename its folder")
    return (default, *others)


def _whole(text: str) -> str:
    return text.replace("\\", "/").rstrip("/")


def _checked(variable: str, models: Sequence[str]) -> tuple[str, ...]:
    if not models:
        raise BaseError(f"{variable} holds commas alone; name one model or several, such as {DEFAULT_BASE_MODEL}")
    for model in models:
        if not _NAME.fullmatch(base_name(model)):
            raise BaseError(
                f"{variable}={model} must end in a name of letters, digits, dots, dashes and underscores, at most "
                f"200 of them and first no dot or dash, such as {DEFAULT_BASE_MODEL}"
            )
    keys = [base_key(model) for model in models]
    if twice := next((key for key in keys if keys.count(key) > 1), ""):
        raise BaseError(f"{variable} names two models called {twice}; bases are told apart by name, so rename a folder")
    return tuple(models)


def own_value(variable: str, text: str, base: str, models: Sequence[str]) -> str:
    """What `text` says for the base of the key `base`: of words with commas between, ``name=value`` holds for that one
    of `models` and a bare one for all that have none of their own. Empty where it says nothing. Raises `BaseError`.
    """
    own, bare = dict[str, str](), list[str]()
    for word in filter(None, map(str.strip, text.split(","))):
        name, sign, value = map(str.strip, word.rpartition("="))
        if not sign:
            bare.append(value)
            continue
        key = _key_among(models, variable, word, name)
        if not value:
            raise BaseError(f"{variable}={word} has no value for {name}; write one behind the =, or leave {name} out")
        if key in own:
            raise BaseError(f"{variable}={text} has two values for {name}, {own[key]} and {value}; keep one of them")
        own[key] = value
    return own.get(base, ",".join(bare))


def _key_among(models: Sequence[str], variable: str, word: str, name: str) -> str:
    if (model := named_among(models, name)) is None:
        names = ", ".join(map(base_name, models))
        raise BaseError(f"{variable}={word} is for a base that is not served; there are {names}")
    return base_key(model)
