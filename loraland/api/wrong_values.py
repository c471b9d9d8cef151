"""What is wrong with a value that a program sent, in our own words: what was given, where, and what would be right.

Pydantic finds it. Its own words, and the names it has for the branches of a union, reach nobody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Path = tuple[str | int, ...]
MAX_SHOWN: Final = 60
MAX_STEP: Final = 100

FORMS: Final = {
    "string_type": "a text",
    "string_sub_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "mapping_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dataclass_type": "an object",
    "none_required": "null",
}
"""The form that a value should have, by pydantic's name for its having another."""

BOUNDS: Final = {
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "string_too_short": "a text that is not empty",
    "string_too_long": "a text of at most {max_length} characters",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "int_parsing_size": "a number with fewer digits",
    "int_too_big": "a number with fewer digits",
    "string_pattern_mismatch": "a text of the form {pattern}",
    "string_unicode": "a text of whole characters",
    "union_tag_invalid": "{expected_tags}",
}
"""What would be right of a value that has the right form."""


CODES: Final = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "not_offered": "unsupported_parameter",
}
"""What programs are told beside the sentence, of all else that the value is invalid."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where, by pydantic's name for it, and what stands there."""

    path: Path
    kind: str
    given: Any
    context: Mapping[str, Any]

    @property
    def param(self) -> str | None:
        return ".".join(str(step)[:MAX_STEP] for step in self.path) or None


@dataclass(frozen=True)
class Explanation:
    """A fault as an error tells it: its code, its sentence and the path to the value as a client writes it."""

    code: str
    sentence: str
    param: str | None


def explain(errors: Sequence[Mapping[str, Any]], body: Any) -> Explanation:
    """The first of pydantic's `errors` on `body` that is no consequence of another: in a union, that of the branch
    that was meant."""
    faults = [_fault(error, body) for error in errors]
    first = next((fault for fault in faults if not any(_explains(other, fault) for other in faults)), faults[0])
    alike = [other.kind for other in faults if other.path == first.path and other.kind in FORMS]
    sentence = _sentence(first, dict.fromkeys(FORMS[kind] for kind in alike))
    return Explanation(CODES.get(first.kind, "invalid_value"), sentence, first.param)


def _sentence(fault: Fault, forms: Iterable[str]) -> str:
    if tell := TELLERS.get(fault.kind):
        return tell(fault)
    right = " or ".join(forms) if fault.kind in FORMS else BOUNDS.get(fault.kind, "").format_map(_Known(fault.context))
    right = _PYTHON.sub(lambda found: _JSON_OF[found.group()], right)
    if not fault.path:
        kind = "a list" if isinstance(fault.given, list) else shown(fault.given)
        return f"The request's body is {kind}; give {right or 'another'}."
    return f"{fault.param} is {shown(fault.given)}; give {right or 'another value'}."


def shown(value: Any) -> str:
    """`value` as JSON where that is short, else what it is."""
    text = _as_json(value)
    if len(text) <= MAX_SHOWN:
        return text
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, dict) else f"a number of {len(text)} digits"


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()
    except (TypeError, ValueError, RecursionError):
        return "?" * (MAX_SHOWN + 1)


def _fault(error: Mapping[str, Any], body: Any) -> Fault:
    path = _place(tuple(error["loc"]), error["type"] == "missing", body)
    return Fault(path, error["type"], error.get("input"), error.get("ctx") or {})


def _place(loc: Path, is_missing: bool, body: Any) -> Path:
    """The part of `loc` that is in the body: among its steps are names of forms that a value was tried as."""
    path: list[str | int] = []
    *steps, last = loc or (None,)
    for step in steps if is_missing else loc:
        is_key = isinstance(body, dict) and step in body
        if is_key or (isinstance(body, list) and isinstance(step, int) and step < len(body)):
            path.append(step)
            body = body[step]
    return (*path, last) if is_missing and last is not None else tuple(path)


def _explains(other: Fault, fault: Fault) -> bool:
    """Whether `fault` says only that a value has not a form which it was not meant to have."""
    if fault.kind not in FORMS or other is fault:
        return False
    is_below = len(other.path) > len(fault.path) and other.path[: len(fault.path)] == fault.path
    return is_below or (other.path == fault.path and other.kind not in FORMS)


def _missing(fault: Fault) -> str:
    return f"The parameter {fault.param!r} is missing." if fault.path else "The request has no body; send JSON."


def _unknown(fault: Fault) -> str:
    return f"The parameter {fault.param!r} is not supported here; leave it out."


def _own_words(fault: Fault) -> str:
    said = str(fault.context.get("error", "it is not taken here"))
    return _ended(f"{fault.param}: {said}" if fault.path else said[:1].upper() + said[1:])


def _not_offered(fault: Fault) -> str:
    return f"The parameter {fault.param!r} {fault.context['sentence']}"


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."


_JSON_OF: Final = {"True": "true", "False": "false", "None": "null"}
_PYTHON: Final = re.compile(r"\b(?:True|False|None)\b(?!')")


class _Known(dict[str, Any]):
    def __missing__(self, name: str) -> str:
        return "another"


TELLERS: Final[Mapping[str, Callable[[Fault], str]]] = {
    "missing": _missing,
    "extra_forbidden": _unknown,
    "value_error": _own_words,
    "assertion_error": _own_words,
    "not_offered": _not_offered,
}
