"""Prompt templates: text with literal ``{field}`` placeholders, and nothing cleverer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class TemplateError(ValueError):
    """A template and the fields it is given that do not fit each other."""


def placeholders(template: str) -> tuple[str, ...]:
    """The names of the fields in `template`, each once, in order of first use."""
    return tuple(dict.fromkeys(_PLACEHOLDER.findall(template)))


def fill(template: str, inputs: Mapping[str, str]) -> str:
    """Put each of `inputs` where the template names it, in one pass: a value is never read as a template.

    Raises `TemplateError` when a field is missing, or given and unknown.
    """
    expected = placeholders(template)
    missing = [name for name in expected if name not in inputs]
    unknown = [name for name in inputs if name not in expected]
    if missing or unknown:
        raise TemplateError(
            f"the template needs the fields {_names(expected)}; missing: {_names(missing)}, unknown: {_names(unknown)}"
        )
    return _PLACEHOLDER.sub(lambda match: inputs[match.group(1)], template)


def opening(template: str) -> str:
    """The text of `template` before its first placeholder."""
    return _PLACEHOLDER.split(template, maxsplit=1)[0]


def _names(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names) or "none"
