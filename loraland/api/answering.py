"""A program's call, answered: with one choice or several, whole or streamed.

When one choice fails, the call does: a program that asked for several answers gets all of them or a sentence. What
else runs is stopped, as it is when the caller hangs up, unless it asked to have the answers stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Protocol
from uuid import uuid4

from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse

from inference.wire.contract import WireError
from inference.wire.failures import meaning_of
from inference.wire.protocol import Delta, Embedded, Failed, Finished, Prompted, Sampling
from loraland.api.authentication import visitor_of
from loraland.api.auto import Addressed, addressed
from loraland.api.call import Call, Choice, Reader, Told
from loraland.api.failing import ApiError
from loraland.api.shape import Answer, Head, Shape, usage_of
from loraland.api.streaming import streamed
from loraland.bases import Base
from loraland.catalogue.composition import Composition, base_of
from loraland.catalogue.models import AdapterVersion
from loraland.generations.filling import filled
from loraland.generations.models import Generation
from loraland.generations.start import check, start
from loraland.generations.visitor import Visitor
from loraland.inference_client import context_length
from loraland.refusal import Refused

Response = HttpResponse | StreamingHttpResponse
Piece = Delta | Prompted | Embedded
"""What an answer is put together from."""

MAX_SEED = 2**63


class Asked(Protocol):
    """What a call asks for, in whatever dialect."""

    @property
    def model(self) -> str: ...

    @property
    def stream(self) -> bool: ...

    @property
    def store(self) -> bool: ...

    @property
    def n(self) -> int: ...

    @property
    def include_usage(self) -> bool: ...

    @property
    def num_tried(self) -> int:
        """How many choices answer each prompt, of which the best `n` are told."""

    def sources(self) -> list[dict[str, Any]]:
        """The prompts, each as `generations.start` takes it."""

    def sampling(self) -> Sampling: ...


async def answer(request: HttpRequest, asked: Asked, shape: Shape, is_embedding: bool = False) -> Response:
    """Answer one call, with embeddings of its prompts where these are asked for.

    Raises `ApiError` and `Refused` for what cannot be answered.
    """
    visitor = visitor_of(request)
    to = await addressed(asked, visitor, is_embedding)
    version, base = to.version, base_of(to.version, to.name)
    if read_by := getattr(asked, "read_by", None):
        read_by(base, version)
    choices, unused = _filled(version, choices_of(asked, to.source), _keeps_turns(asked))
    try:
        _check(visitor, version, choices)
    except Refused as refusal:
        raise await _with_context(refusal, base) from None
    begin = partial(_begin, visitor, to, base, is_embedding, _keeps_turns(asked))
    first = await begin(choices[0])
    created = int(first.created.timestamp())
    digest = version.digest if version else ""
    told = told_of(asked, unused) | to.told
    head = Head(first.wire_id, to.name, created, digest, first.components, len(choices) > 1, told)
    reader = Reader(
        stops=not asked.store,
        with_usage=asked.include_usage,
        with_every_usage=bool(getattr(asked, "every_usage", False)),
    )
    return await respond(Call(first, reader, choices, begin), head, shape, reader, asked.stream, asked.n)


def told_of(asked: Asked, unused: Sequence[int] = ()) -> dict[str, Any]:
    """What an answer says of its question: which parameters changed nothing, and of which messages nothing is used."""
    told = {"ignored": list(getattr(asked, "ignored", ())), "unused_messages": list(unused)}
    return {name: places for name, places in told.items() if places}


def _keeps_turns(asked: Asked) -> bool:
    return bool(getattr(asked, "keep_turns", False))


def _filled(
    version: AdapterVersion | Composition | None, choices: list[Choice], keep_turns: bool
) -> tuple[list[Choice], tuple[int, ...]]:
    """`choices` as `version` takes them, and the places of the messages of which it uses nothing."""
    found = [filled(version, choice.source) for choice in choices]
    unused = found[0].unused
    if unused and keep_turns:
        sentence = (
            f"This adapter's own prompt uses one message and has no place for messages {', '.join(map(str, unused))}; "
            "leave them out, or truncation: disabled."
        )
        raise Refused("invalid_request", sentence, param=f"messages.{unused[0]}")
    return [replace(choice, source=each.source) for choice, each in zip(choices, found, strict=True)], unused


async def _with_context(refusal: Refused, base: Base) -> Refused:
    """`refusal`, in the words by which programs know that a text is too long, if it is one of these."""
    if meaning_of(refusal.code).fault != "text":
        return refusal
    with suppress(WireError):
        context = await context_length(base)
        refusal.sentence = f"This model's maximum context length is {context} tokens. {refusal.sentence}"
    return refusal


def choices_of(asked: Asked, instead: dict[str, Any] | None = None) -> list[Choice]:
    """What is asked, answer by answer, of the one prompt `instead` of its own where that is given. A given seed is that
    of each prompt's first choice, and counts on."""
    sampling, num = asked.sampling(), asked.num_tried
    choices: list[Choice] = []
    for prompt, source in enumerate(asked.sources() if instead is None else [instead]):
        group = uuid4().hex if num > 1 else ""
        for number in range(num):
            own = sampling if sampling.seed is None else replace(sampling, seed=(sampling.seed + number) % MAX_SEED)
            choices.append(Choice(len(choices), prompt, source, own, group))
    return choices


async def respond(
    call: Call, head: Head, shape: Shape, reader: Reader, stream: bool, num_best: int | None = None
) -> Response:
    """The answer, streamed or as one body, which tells the best `num_best` choices of each prompt."""
    try:
        response = await _responded(call, head, shape, reader, stream, num_best)
    except ApiError as error:
        error.request_id = head.generation
        raise
    response["X-Request-Id"] = head.generation
    if unused := head.told.get("unused_messages"):
        response["X-LoRALand-Unused-Messages"] = ",".join(map(str, unused))
    for name, value in route_headers(head).items():
        response[name] = value
    return response


def route_headers(head: Head) -> dict[str, str]:
    """What is told of a choice of `auto` before an answer, as `loraland.route` tells it."""
    if (route := head.told.get("route")) is None:
        return {}
    others = ",".join(f"{each['adapter']}={each['score']}" for each in route["runners_up"])
    told = {"Adapter": head.model, "Digest": route["digest"], "Score": route["score"], "Runners-Up": others}
    told |= {"Route-Reason": route["reason"]}
    return {f"X-LoRALand-{name}": str(value) for name, value in told.items() if value not in ("", None)}


async def _responded(
    call: Call, head: Head, shape: Shape, reader: Reader, stream: bool, num_best: int | None
) -> Response:
    if stream:
        return await streamed(call, head, shape, reader)
    answers = await whole(call)
    told = best(answers, num_best) if num_best else answers
    response = JsonResponse(shape.whole(head, told, usage_of(answers)), safe=False)
    if dropped := max(answer.finished.stats.dropped_turns for answer in answers):
        response["X-LoRALand-Dropped-Turns"] = str(dropped)
    if any(answer.finished.stats.is_uninvoked for answer in answers):
        response["X-LoRALand-Not-Invoked"] = "1"
    return response


async def whole(call: Call) -> list[Answer]:
    """All choices in their order, each complete. Raises `ApiError` for the first that fails."""
    told: dict[int, list[Piece]] = {choice.index: [] for choice in call.choices}
    answers = {}
    async with aclosing(call.events()) as events:
        async for each in events:
            if isinstance(each.event, Piece):
                told[each.choice.index].append(each.event)
            elif isinstance(each.event, Finished):
                answers[each.choice.index] = _answer(each, each.event, told[each.choice.index])
            elif isinstance(each.event, Failed):
                raise call.error_of(each)
    return [answers[index] for index in sorted(answers)]


def best(answers: Sequence[Answer], num: int) -> list[Answer]:
    """Of each prompt's answers the `num` with the highest mean log-probability, numbered anew; all, if there are no
    more."""
    by_prompt: dict[int, list[Answer]] = {}
    for answer in answers:
        by_prompt.setdefault(answer.prompt, []).append(answer)
    kept = [
        answer
        for choices in by_prompt.values()
        for answer in (choices if len(choices) <= num else sorted(choices, key=_mean_logprob, reverse=True)[:num])
    ]
    return [replace(answer, index=index) for index, answer in enumerate(kept)]


def _mean_logprob(answer: Answer) -> float:
    return sum(token.logprob for token in answer.logprobs) / max(len(answer.logprobs), 1)


def _answer(told: Told, finished: Finished, events: list[Piece]) -> Answer:
    deltas = [event for event in events if isinstance(event, Delta)]
    return Answer(
        told.choice.index,
        told.choice.prompt,
        told.generation.wire_id,
        finished,
        "".join(delta.text for delta in deltas),
        tuple(token_id for delta in deltas for token_id in delta.token_ids),
        tuple(logprob for delta in deltas for logprob in delta.logprobs),
        tuple(token for event in events if isinstance(event, Prompted) for token in event.tokens),
        told.choice.index,
        next((event.vector for event in events if isinstance(event, Embedded)), ()),
    )


def _check(visitor: Visitor, version: AdapterVersion | Composition | None, choices: list[Choice]) -> None:
    """Refuse a call of which a part could never be answered, before any of it begins."""
    is_many = choices[-1].prompt > 0
    for choice in {choice.prompt: choice for choice in choices}.values():
        try:
            check(visitor, version, **choice.source, sampling=choice.sampling)
        except Refused as refusal:
            name, _, rest = (refusal.param or "").partition(".")
            if not is_many or (name not in choice.source and name != "prompt"):
                raise
            param = ".".join(filter(None, (name, str(choice.prompt), rest)))
            sentence = f"{name.capitalize()} {choice.prompt}: {refusal.sentence}"
            raise Refused(refusal.code, sentence, refusal.status, refusal.retry_after, param) from None


async def _begin(
    visitor: Visitor,
    to: Addressed,
    base: Base,
    is_embedding: bool,
    keep_turns: bool,
    choice: Choice,
) -> Generation:
    return await start(
        visitor,
        Generation.Source.API,
        to.version,
        base=base,
        **choice.source,
        sampling=choice.sampling,
        group=choice.group,
        keep_turns=keep_turns,
        is_embedding=is_embedding,
        route=to.told.get("route"),
    )
