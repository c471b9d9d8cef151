"""What a visitor writes in: one field for each variable of a template, or one for free text, and examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from inference.wire.digits import whole
from inference.wire.protocol import Sampling
from loraland.catalogue.models import AdapterVersion
from loraland.playground.messages import Prompt
from loraland.playground.sampling import SETTINGS, Setting

FREE: Final = "text"
"""The name of the one field of a composer without a template."""

STARTERS: Final = (
    "Rewrite this sentence in the past tense: She walks to the market and buys fresh bread.",
    "List three animals that live in the sea.",
    "Continue the story: Once upon a time, a small boat left the harbour at night.",
)
"""What to click where there is no adapter to bring its own examples."""

READS_FIELDS: Final = "It reads what stands in these fields and nothing else: earlier messages are not seen."
READS_ONE: Final = "It reads one message at a time, as “{}”: earlier messages are not seen."
"""A template holds one filling: whoever writes on as in a chat is answered as if nothing had been said before."""


@dataclass(frozen=True)
class Field:
    """One text area. `rows` is its height when empty."""

    name: str
    label: str
    rows: int
    value: str = ""


@dataclass(frozen=True)
class Example:
    """One set of inputs to click; `label` is its first words, `data` the inputs in JSON."""

    label: str
    data: str
    expected: str = ""


@dataclass(frozen=True)
class Choice:
    """One setting of the sampling panel and its value."""

    setting: Setting
    value: str


@dataclass(frozen=True)
class Composer:
    mode: str
    fields: tuple[Field, ...]
    examples: tuple[Example, ...]
    choices: tuple[Choice, ...]
    note: str = ""
    """What a visitor who takes the adapter for a partner in conversation should know, in a sentence or two."""


def composer_of(version: AdapterVersion | None, sampling: Sampling, prompt: Prompt | None = None) -> Composer:
    """The composer of `version` (None: free text), filled with `prompt` where it fits."""
    inputs = (prompt.inputs or {}) if prompt else {}
    text = prompt.text if prompt else ""
    if version and version.fields:
        mode, fields = "inputs", _fields(version, inputs, text)
        note = READS_ONE.format(fields[0].label) if len(fields) == 1 else READS_FIELDS
    else:
        label = f"Message to {version.adapter.name}" if version else "Message"
        mode, fields, note = FREE, (Field(FREE, label, 2, text or "\n\n".join(inputs.values())),), ""
    choices = tuple(Choice(setting, f"{getattr(sampling, setting.name):g}") for setting in SETTINGS)
    return Composer(mode, fields, _examples(version, mode), choices, note)


def free_composer(examples: Sequence[Example], prompt: Prompt | None = None) -> Composer:
    """A composer for words to whichever adapter fits them."""
    fields = (Field(FREE, "Ask the land", 2, prompt.text if prompt else ""),)
    return Composer(FREE, fields, tuple(examples), (), "Whoever your first message is for stays for this chat.")


def example_prompt(version: AdapterVersion | None, number: str) -> Prompt | None:
    """The example that the address asks for, counted from 0; nothing where there is none."""
    examples = version.examples if version else []
    try:
        example = examples[whole(number, len(examples) - 1)]
    except ValueError:
        return None
    return Prompt(inputs=example.get("inputs") or {})


def _fields(version: AdapterVersion, inputs: dict[str, str], text: str) -> tuple[Field, ...]:
    lone = text if len(version.fields) == 1 else ""
    return tuple(
        Field(
            name=field["name"],
            label=version.labels[field["name"]],
            rows=min(max(int(field.get("rows") or 2), 1), 12),
            value=inputs.get(field["name"], lone),
        )
        for field in version.fields
    )


def _examples(version: AdapterVersion | None, mode: str) -> tuple[Example, ...]:
    if version is None:
        return tuple(Example(text, json.dumps({FREE: text})) for text in STARTERS)
    return tuple(_example(example, mode) for example in version.examples if example.get("inputs"))


def example_of(version: AdapterVersion) -> Example | None:
    """The first example of `version` as free text; None for one without, or with a prompt of several fields."""
    return _example(version.examples[0], FREE) if version.examples and len(version.fields) == 1 else None


def _example(example: dict[str, Any], mode: str) -> Example:
    inputs: dict[str, str] = example["inputs"]
    data = inputs if mode == "inputs" else {FREE: "\n\n".join(inputs.values())}
    label = " · ".join(" ".join(value.split()) for value in inputs.values() if value.strip())
    return Example(label[:160], json.dumps(data, ensure_ascii=False), str(example.get("expected") or ""))
