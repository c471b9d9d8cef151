"""One prompt before several columns: which column reads it how, and what each is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from django.db import transaction

from inference.tasks.template import pieces
from inference.wire.protocol import Message
from loraland.bases import Base
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.versions import Reader
from loraland.generations.models import Generation
from loraland.generations.visitor import Visitor
from loraland.playground import sampling
from loraland.playground.conversations import CompletionRequest, fitted, not_found
from loraland.playground.judgement import Expectation, metric_of
from loraland.playground.messages import Compare, Prompt
from loraland.playground.models import Column, Comparison
from loraland.playground.partner import Partner, bare_base, kept_base, read_back, version_in
from loraland.refusal import Refused


@dataclass(frozen=True)
class Reading:
    """How one column reads the shared prompt: the words of the request, and a note that says so on the page."""

    content: dict[str, Any]
    note: str


def competitor(name: str, reader: Reader) -> Partner:
    """What `reader` means by `name`: ``base``, ``base:name``, ``slug`` or ``slug@digest-prefix``. Raises `Refused`."""
    return bare_base(name) or AdapterVersion.objects.seen_by(reader).named(name)


def name_of(partner: Partner) -> str:
    """The shortest name that `competitor` reads back as `partner`."""
    if isinstance(partner, Base):
        return partner.called
    is_shown = partner.adapter.published_id == partner.pk
    return partner.adapter.slug if is_shown else f"{partner.adapter.slug}@{partner.short_digest}"


def lead_of(competitors: Sequence[Partner]) -> AdapterVersion | None:
    """The first competitor with a template: its fields are the ones that the visitor fills in."""
    versions = map(version_in, competitors)
    return next((version for version in versions if version and version.fields), None)


def reading(version: AdapterVersion | None, lead: AdapterVersion | None, prompt: Prompt | None) -> Reading:
    """What `version` gets of a prompt that was written for `lead`; without a prompt only the note is of use.

    Fields of the same name go into its own template. Whoever has no such fields, the base above all, gets the
    words that the lead gets: its template, filled in.
    """
    inputs = (prompt.inputs if prompt else None) or {}
    text = filled(lead, inputs) if lead else (prompt.text if prompt else "")
    names = version.field_names if version else ()
    given = lead.field_names if lead else ()
    if names and set(names) <= set(given):
        note = "reads its own template" if version == lead else "reads the same fields in its own template"
        return Reading({"inputs": {name: inputs.get(name, "") for name in names}}, note)
    if version and len(names) == 1:
        value = next(iter(inputs.values()), "") if len(given) == 1 else text
        return Reading({"inputs": {names[0]: value}}, f"reads the prompt as its field {version.labels[names[0]]}")
    leads = lead.adapter.name if lead else "the base"
    if names:
        return Reading({"prompt": text}, f"has other fields: reads {leads}’s filled-in template as plain text")
    note = f"reads {leads}’s filled-in template as a chat message" if lead else "reads the prompt as it stands"
    return Reading({"messages": [Message("user", text)]}, note)


def filled(version: AdapterVersion, inputs: dict[str, str]) -> str:
    """The template with its placeholders replaced, in one pass: a value that looks like one stays as it is."""
    parts = pieces(version.template, version.field_names)
    return "".join(inputs.get(piece, "") if is_field else piece for piece, is_field in parts)


def expected_of(version: AdapterVersion | None, inputs: dict[str, str] | None) -> str:
    """The answer that the adapter's own example with exactly these inputs expects, or nothing."""
    examples = version.examples if version and inputs else []
    return next((example.get("expected", "") for example in examples if example.get("inputs") == inputs), "")


def expectation_of(generation: Generation) -> Expectation | None:
    """What is expected of an answer: its comparison's example, or the adapter's own that has exactly its inputs."""
    if generation.source == Generation.Source.COMPARE:
        column = Column.objects.filter(generation=generation).select_related("comparison").first()
        return expected_in(column.comparison, columns_of(column.comparison)) if column else None
    version = generation.adapter_version
    words = expected_of(version, generation.request.get("inputs"))
    return Expectation(words, metric_of(version)) if words else None


def expected_in(comparison: Comparison, columns: Sequence[Column]) -> Expectation | None:
    """What is expected of every column, by the metric of the one whose fields and example they were given."""
    lead = lead_of([column_partner(column) for column in columns])
    return Expectation(comparison.expected, metric_of(lead)) if comparison.expected else None


def drafted(visitor: Visitor, message: Compare) -> tuple[Comparison, list[Column]]:
    """A comparison and its columns, not written down. Raises `Refused` for a column that does not exist."""
    competitors = [competitor(name, visitor) for name in message.columns]
    lead = lead_of(competitors)
    prompt = shared(lead, message.prompt)
    comparison = Comparison.owned(
        visitor,
        text=prompt.text,
        inputs=prompt.inputs,
        expected=expected_of(lead, prompt.inputs),
        sampling=asdict(message.sampling or sampling.defaults(lead)),
    )
    columns = [
        Column(comparison=comparison, position=position, version=version_in(each), base=kept_base(each))
        for position, each in enumerate(competitors)
    ]
    return comparison, columns


def keep(comparison: Comparison, columns: Sequence[Column]) -> None:
    """Write a comparison down with what became of asking its columns."""
    with transaction.atomic():
        comparison.save(force_insert=True)
        Column.objects.bulk_create(columns)


def shared(lead: AdapterVersion | None, prompt: Prompt) -> Prompt:
    """The prompt in the form that the columns ask for. Raises `Refused` where it has another one."""
    prompt = fitted(lead, prompt)
    if lead is None and prompt.inputs is not None:
        raise Refused("invalid_request", "These columns have no fields; write the prompt as text.")
    if lead and set(prompt.inputs or {}) != set(lead.field_names):
        fields = ", ".join(lead.field_names)
        raise Refused("inputs_required", f"{lead.adapter.name} leads here: fill in its fields {fields}.")
    return prompt


def comparison_of(visitor: Visitor, id: UUID) -> Comparison:
    """The visitor's comparison `id`; another visitor's is refused like one that does not exist."""
    comparison: Comparison | None = Comparison.objects.of(visitor).filter(pk=id).first()
    if comparison is None:
        raise not_found("comparison")
    return comparison


def columns_of(comparison: Comparison) -> list[Column]:
    return list(comparison.columns.select_related("version__adapter", "generation__adapter_version__adapter"))


def column_partner(column: Column) -> Partner:
    """Who answers in `column`."""
    return read_back(column.version, column.base)


def completion(column: Column, columns: Sequence[Column]) -> CompletionRequest:
    """What `column` is asked, beside the `columns` of its comparison."""
    comparison = column.comparison
    lead = lead_of([column_partner(beside) for beside in columns])
    read = reading(column.version, lead, Prompt(comparison.text, comparison.inputs))
    return CompletionRequest(column_partner(column), read.content, comparison.chosen)


def retried(visitor: Visitor, id: UUID, position: int) -> tuple[Column, CompletionRequest]:
    """A column to be asked once more. Raises `Refused` while it is still answering."""
    columns = columns_of(comparison_of(visitor, id))
    column = next((column for column in columns if column.position == position), None)
    if column is None:
        raise not_found("column")
    if column.generation and not column.generation.is_finished:
        raise Refused("too_many_running", "This column is still answering; stop it first.")
    return column, completion(column, columns)


def attach(column: Column, generation: Generation | None, refusal: str = "") -> None:
    """Write down what became of asking `column`."""
    column.generation, column.refusal = generation, refusal
    column.save(update_fields=["generation", "refusal"])
