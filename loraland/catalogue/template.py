"""An adapter's prompt template, its fields and its example inputs: what a person may write, and why not.

What a place in a template is, `inference.tasks.template` says.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final

from inference.adapters.storable import is_storable
from inference.tasks.lines import text_lines
from inference.tasks.template import FIELD, label_of, placeholders

MAX_FIELDS: Final = 12
MAX_EXAMPLES: Final = 20
MAX_TEMPLATE_CHARS: Final = 20_000
MAX_ROWS: Final = 30


class TemplateError(ValueError):
    """A template, field or example that cannot be used; `reasons` are sentences."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(" ".join(reasons))
        self.reasons = reasons


def fields_of(template: str, names: list[str] | None = None) -> list[dict[str, Any]]:
    """The fields of `template`: those in `names`, or else every placeholder. Raises `TemplateError`."""
    chosen = [{"name": name} for name in (names if names else placeholders(template))]
    return check_fields(template, chosen)


def check_fields(template: str, fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`fields` with a label and a number of rows each. Raises `TemplateError` with every reason."""
    found = placeholders(template)
    names = [field.get("name") for field in fields]
    reasons = [reason for field in fields for reason in _field_problems(field, found)]
    reasons += [f"The field {name} is given twice." for name in found if names.count(name) > 1]
    if len(template) > MAX_TEMPLATE_CHARS:
        reasons.append(f"The template has {len(template)} characters; at most {MAX_TEMPLATE_CHARS} are taken.")
    if len(fields) > MAX_FIELDS:
        reasons.append(f"There are {len(fields)} fields; a form takes at most {MAX_FIELDS}.")
    if template.strip() and not fields:
        reasons.append("The template has no field; put the place of the input in braces, such as {text}.")
    if reasons:
        raise TemplateError(reasons)
    return [
        {"name": field["name"], "label": field.get("label") or label_of(field["name"]), "rows": field.get("rows", 3)}
        for field in fields
    ]


def check_examples(examples: list[Any], fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`examples` as {"inputs": {field: text}, "expected": text}. Raises `TemplateError` with every reason."""
    names = {field["name"] for field in fields}
    problems = [(number, _example_problem(example, names)) for number, example in enumerate(examples, 1)]
    reasons = [f"Example {number}: {problem}" for number, problem in problems if problem]
    if len(examples) > MAX_EXAMPLES:
        reasons.append(f"There are {len(examples)} examples; choose at most {MAX_EXAMPLES}.")
    if reasons:
        raise TemplateError(reasons)
    return [{"inputs": example["inputs"], "expected": example.get("expected", "")} for example in examples]


def parse_examples(text: str, fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Examples from `text`, one JSON object a line: ``{"tweet": "…", "expected": "joy"}``.

    The longer form ``{"inputs": {…}, "expected": …}`` is taken as well. Raises `TemplateError`.
    """
    examples, reasons = [], []
    names = {field["name"] for field in fields}
    for number, line in enumerate(text_lines(text), 1):
        if not line.strip():
            continue
        try:
            examples.append(_as_example(json.loads(line), names))
        except (ValueError, RecursionError):
            reasons.append(f'Line {number} of the examples is not JSON; write {{"text": "…", "expected": "…"}}.')
    if reasons:
        raise TemplateError(reasons)
    return check_examples(examples, fields)


def _as_example(row: Any, names: set[str]) -> Any:
    if not isinstance(row, dict) or (isinstance(row.get("inputs"), dict) and "inputs" not in names):
        return row
    inputs = {key: value for key, value in row.items() if key in names or key != "expected"}
    return {"inputs": inputs, "expected": "" if "expected" in names else row.get("expected", "")}


def _field_problems(field: dict[str, Any], found: Collection[str]) -> list[str]:
    name, rows = field.get("name"), field.get("rows", 3)
    if not isinstance(name, str) or not FIELD.fullmatch(name):
        return [f"{name!r} is not a field name; use letters, digits and underscores."]
    reasons = []
    if name not in found:
        reasons.append(f"The template has no place for the field {name}; write {{{name}}} where it belongs.")
    if unknown := sorted(set(field) - {"name", "label", "rows"}):
        reasons.append(f"The field {name} has unknown keys: {', '.join(unknown)}; it takes name, label and rows.")
    if not isinstance(field.get("label", ""), str):
        reasons.append(f"The label of the field {name} must be text.")
    if type(rows) is not int or not 1 <= rows <= MAX_ROWS:
        reasons.append(f"The field {name} has {rows!r} rows; use a whole number from 1 to {MAX_ROWS}.")
    return reasons


def _example_problem(example: Any, names: set[str]) -> str:
    if not is_storable(example):
        return "it holds characters that cannot be kept."
    if not isinstance(example, dict) or not isinstance(example.get("inputs"), dict):
        return "give the inputs as an object of fields and texts."
    if not names:
        return "examples need a template with fields; write the template first."
    given = set(example["inputs"])
    if missing := sorted(names - given):
        return f"the field {', '.join(missing)} is missing."
    if unknown := sorted(given - names):
        return f"there is no field {', '.join(unknown)}; the fields are {', '.join(sorted(names))}."
    if not all(isinstance(value, str) for value in (*example["inputs"].values(), example.get("expected", ""))):
        return "every value must be text in quotes."
    if extra := sorted(set(example) - {"inputs", "expected"}):
        return f"unknown keys: {', '.join(extra)}; an example takes inputs and expected."
    return ""
