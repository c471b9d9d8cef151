"""The way from a visitor's message to a request for the workers, and from its answer back into the conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from inference.wire.protocol import Message, Sampling
from loraland import bases
from loraland.bases import BASE, Base
from loraland.catalogue.models import AdapterVersion
from loraland.generations.models import Generation
from loraland.generations.visitor import Visitor
from loraland.playground import sampling
from loraland.playground.chosen import choose_partner, refitted
from loraland.playground.messages import Prompt, Regenerate, Reroute, Start
from loraland.playground.models import Answer, Conversation, Turn
from loraland.playground.partner import Partner, bare_base, kept_base, read_back, version_in
from loraland.refusal import Refused

TITLE_CHARS: Final = 60


@dataclass(frozen=True)
class CompletionRequest:
    """What one generation is asked: `content` is the part of `generations.start` that carries the words."""

    partner: Partner
    content: dict[str, Any]
    sampling: Sampling


@dataclass(frozen=True)
class Asked:
    """A request and where its answer belongs: `turn` is set when it is asked again."""

    completion: CompletionRequest
    prompt: Prompt
    conversation: Conversation | None = None
    turn: Turn | None = None
    route: dict[str, Any] = field(default_factory=dict)
    """Why its partner was chosen, for a new conversation that leaves that to us."""
    moves: bool = False
    """Whether another partner than the page's answers."""


def ask(visitor: Visitor, message: Start, among: Sequence[Base] = ()) -> Asked:
    """What `message` asks; for ``auto`` of the adapter that fits, of the bases `among`.

    Raises `Refused` for a conversation that is not the visitor's, and for an adapter that is not published.
    """
    if among and message.conversation is None:
        return _of_the_nearest(message, among)
    conversation = conversation_of(visitor, message.conversation) if message.conversation else None
    answers = _partner(conversation) if conversation else partner(message.adapter)
    version = version_in(answers)
    prompt = fitted(version, message.prompt)
    history = _history(conversation.turns.all()) if conversation else []
    completion = CompletionRequest(answers, _content(prompt, history), message.sampling or sampling.defaults(version))
    return Asked(completion, prompt, conversation)


def _of_the_nearest(message: Start, among: Sequence[Base]) -> Asked:
    if (count := bases.parts_of_auto(message.adapter)) > 1:
        sentence = (
            f"A chat here is with one adapter, not with the sum of {count}; choose auto, or ask for the sum by the API."
        )
        raise Refused("invalid_model", sentence, param="model")
    answers, prompt, choice = choose_partner(message.prompt, among)
    chosen = message.sampling or sampling.defaults(version_in(answers))
    return Asked(CompletionRequest(answers, _content(prompt, []), chosen), prompt, route=choice.told, moves=True)


def partner(name: str) -> Partner:
    """Who answers in a new chat; the default base where nobody is named. Raises `Refused`."""
    return bare_base(name or BASE) or AdapterVersion.objects.shown().named(name)


def ask_again(visitor: Visitor, message: Regenerate) -> Asked:
    """The request of an answer once more, so chosen that it may come out differently."""
    mine = Generation.objects.of(visitor)
    answer = Answer.objects.filter(generation__in=mine, generation=message.answer).select_related("turn").first()
    if answer is None:
        raise not_found("answer")
    turn = answer.turn
    conversation = conversation_of(visitor, turn.conversation_id)
    _check_answered(turn)
    answers = _partner(conversation)
    prompt = Prompt(turn.text, turn.inputs)
    history = _history(conversation.turns.filter(id__lt=turn.id))
    chosen = sampling.refreshed(message.sampling or sampling.defaults(version_in(answers)))
    return Asked(CompletionRequest(answers, _content(prompt, history), chosen), prompt, conversation, turn)


def ask_another(visitor: Visitor, message: Reroute) -> Asked:
    """The last turn of a conversation, asked of whom the visitor chose in place of whom was chosen for it."""
    conversation = conversation_of(visitor, message.conversation)
    turn = conversation.turns.last()
    if turn is None or not conversation.route:
        raise not_found("choice")
    _check_answered(turn)
    answers = partner(message.adapter)
    version = version_in(answers)
    prompt = refitted(turn, version)
    history = _history(conversation.turns.filter(id__lt=turn.id))
    completion = CompletionRequest(answers, _content(prompt, history), sampling.defaults(version))
    return Asked(completion, prompt, conversation, turn, moves=True)


def record(visitor: Visitor, asked: Asked, generation: Generation) -> Answer:
    """Write the turn and its answer down, in a new conversation where there was none."""
    with transaction.atomic():
        conversation = asked.conversation or _begin(visitor, asked)
        turn = asked.turn or conversation.turns.create(text=asked.prompt.text, inputs=asked.prompt.inputs)
        if asked.turn and asked.moves:
            _move(conversation, turn, asked)
        answer = Answer.objects.create(turn=turn, generation=generation)
        Conversation.objects.filter(pk=conversation.pk).update(updated=timezone.now())
    return answer


def conversation_of(visitor: Visitor, id: UUID) -> Conversation:
    """The visitor's conversation `id`; another visitor's is refused like one that does not exist."""
    mine = Conversation.objects.of(visitor).select_related("adapter__published")
    conversation: Conversation | None = mine.filter(pk=id).first()
    if conversation is None:
        raise not_found("conversation")
    return conversation


def fitted(version: AdapterVersion | None, prompt: Prompt) -> Prompt:
    """`prompt` in the form that `version` reads: free text goes into the only field of a template."""
    if prompt.inputs is None and version and len(version.fields) == 1:
        return Prompt(inputs={version.field_names[0]: prompt.text})
    return prompt


def title_of(prompt: Prompt) -> str:
    """The first words of what was written."""
    text = prompt.text or next((value for value in (prompt.inputs or {}).values() if value.strip()), "")
    words = " ".join(text.split())
    return words if len(words) <= TITLE_CHARS else words[: TITLE_CHARS - 1].rsplit(" ", 1)[0] + "…"


def not_found(noun: str) -> Refused:
    return Refused("not_found", f"There is no such {noun}, or it is not yours.")


def _check_answered(turn: Turn) -> None:
    if turn.answers.filter(generation__in=Generation.objects.unfinished()).exists():
        raise Refused("too_many_running", "This turn is still being answered; stop that answer first.")


def _move(conversation: Conversation, turn: Turn, asked: Asked) -> None:
    """Let the conversation and its last turn be with the partner that is asked now."""
    answers = asked.completion.partner
    adapter_id = version.adapter_id if (version := version_in(answers)) else None
    Conversation.objects.filter(pk=conversation.pk).update(adapter_id=adapter_id, base=kept_base(answers))
    turn.text, turn.inputs = asked.prompt.text, asked.prompt.inputs
    turn.save(update_fields=["text", "inputs"])


def _begin(visitor: Visitor, asked: Asked) -> Conversation:
    answers = asked.completion.partner
    adapter_id = version.adapter_id if (version := version_in(answers)) else None
    about = {
        "adapter_id": adapter_id,
        "base": kept_base(answers),
        "title": title_of(asked.prompt),
        "route": asked.route,
    }
    conversation = Conversation.owned(visitor, **about)
    conversation.save(force_insert=True)
    return conversation


def _partner(conversation: Conversation) -> Partner:
    """What answers here now: a chat stays with its adapter, which may have another version by now, or none."""
    if (adapter := conversation.adapter) is None:
        return read_back(None, conversation.base)
    if adapter.published is None:
        raise Refused("model_not_found", f"{adapter.name} is no longer published; choose another adapter.")
    adapter.published.adapter = adapter
    return adapter.published


def _content(prompt: Prompt, history: list[Message]) -> dict[str, Any]:
    if prompt.inputs is not None:
        return {"inputs": prompt.inputs}
    return {"messages": [*history, Message("user", prompt.text)]}


def _history(turns: Any) -> list[Message]:
    """Earlier turns with their last good answers. A turn without one is left out: nobody replied to it."""
    messages: list[Message] = []
    for turn in turns.prefetch_related("answers__generation"):
        texts = [answer.generation.text for answer in turn.answers.all() if answer.generation.text]
        if texts and turn.text:
            messages += [Message("user", turn.text), Message("assistant", texts[-1])]
    return messages
