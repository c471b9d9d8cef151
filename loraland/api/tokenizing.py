"""Text to tokens and back for programs, as the workers do it: ``/tokenize`` and ``/detokenize``.

They are open to whoever has no key, up to the size of one prompt: a text costs less than a page does, and tools that
count ask without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from pydantic import Field

from inference.engine.prompt import PromptError, build_prompt
from inference.model.tokenizer import Span, Tokenizer
from inference.wire.protocol import Generate
from loraland import bases
from loraland.api.entries import meant
from loraland.api.errors import ApiError
from loraland.api.openai import neutral
from loraland.api.openai.chat import ChatMessage
from loraland.api.openai.strict import Strict, Text
from loraland.api.programs import STRANGER, body_of, caller_if_any, opened
from loraland.api.tools.asked import tools_of
from loraland.bases import BASE, Base
from loraland.catalogue.composition import base_of, tokenizer_for
from loraland.generations.limits import check_inputs
from loraland.generations.visitor import Visitor
from loraland.inference_client import context_length
from loraland.refusal import Refused

UNLIMITED: Final = 10**9
"""A context that no prompt fills: what does not fit the base's own is counted, too."""
TEXT_OF_MANY: Final = 4
"""Characters that one token stands for, where ids are counted against a limit of characters."""

BYTES_OF_ONE: Final = 16
"""Bytes that JSON takes for one character at most, with something for what is around it."""

TokenId = Annotated[int, Field(ge=0, lt=2**32)]


class Tokenize(Strict):
    """`prompt` as it stands; `messages`, with `tools` to call, or an adapter's fields through the template of `model`.
    `inputs` as a text is LoRAX's word for a prompt, and is told in LoRAX's form."""

    RULES: ClassVar[Mapping[str, neutral.Rule]] = {
        name: neutral.REQUEST[name] for name in ("chat_template", "chat_template_kwargs", "mm_processor_kwargs")
    }

    model: str = BASE
    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)] | None = None
    inputs: Text | dict[str, Text] | None = None
    tools: Any = None
    add_special_tokens: bool | None = None
    return_token_strs: bool = False
    add_generation_prompt: Literal[True] = True
    continue_final_message: Literal[False] = False


class Detokenize(Strict):
    model: str = BASE
    tokens: list[TokenId]


@opened("POST")
async def tokenize(request: HttpRequest) -> HttpResponse:
    visitor = await _caller(request)
    asked = body_of(request, Tokenize)
    _check(asked, visitor)
    base, tokenizer = await _reader(asked.model, visitor)
    if isinstance(asked.inputs, str):
        return JsonResponse(await asyncio.to_thread(_in_lorax_form, asked.inputs, asked, tokenizer), safe=False)
    ids = await _plain(asked, tokenizer) if asked.prompt is not None else await _filled(asked, visitor)
    strings = [tokenizer.symbol(id) for id in ids] if asked.return_token_strs else None
    about = {"count": len(ids), "max_model_len": await context_length(base) or None}
    return JsonResponse(about | {"tokens": ids, "token_strs": strings})


@opened("POST")
async def detokenize(request: HttpRequest) -> HttpResponse:
    visitor = await _caller(request)
    asked = body_of(request, Detokenize)
    _check_size(len(asked.tokens), visitor, "tokens", settings.MAX_INPUT_CHARS // TEXT_OF_MANY, "ids")
    base, tokenizer = await _reader(asked.model, visitor)
    return JsonResponse({"prompt": await asyncio.to_thread(_text_of, asked.tokens, base, tokenizer)})


async def _reader(model: str, visitor: Visitor) -> tuple[Base, Tokenizer]:
    """The base whose tokens are meant, and what reads for `model`. Where there is one base, nobody's name means it."""
    try:
        version = await meant(model, visitor)
        base = base_of(version, model)
    except Refused:
        if len(bases.served()) > 1:
            raise
        version, base = None, bases.default()
    return base, await asyncio.to_thread(tokenizer_for, version, base)


async def _caller(request: HttpRequest) -> Visitor:
    """Who asks. A stranger's body is refused before it is read as JSON, where that alone would take long."""
    visitor = await caller_if_any(request)
    _check_size(len(request.body) // BYTES_OF_ONE, visitor)
    return visitor


async def _plain(asked: Tokenize, tokenizer: Tokenizer) -> list[int]:
    spans = await asyncio.to_thread(_spans, asked.prompt or "", asked.add_special_tokens, tokenizer)
    return [span.token_id for span in spans]


async def _filled(asked: Tokenize, visitor: Visitor) -> list[int]:
    """The tokens of a template with what was sent, by the rules of the workers."""
    version = await meant(asked.model, visitor)
    turns = tuple(message.to_wire() for message in asked.messages) if asked.messages else None
    inputs = asked.inputs if isinstance(asked.inputs, dict) else None
    check_inputs(version, inputs, turns is not None)
    tools = found.source()["tools"] if (found := tools_of(asked.tools, None)) else ""
    request = Generate("", version.ref if version else None, messages=turns, inputs=inputs, tools=tools)
    try:
        base = base_of(version, asked.model)
        prompt = await asyncio.to_thread(lambda: build_prompt(request, tokenizer_for(version, base), UNLIMITED))
    except PromptError as error:
        raise ApiError(400, error.code, str(error), "messages" if turns else "inputs") from error
    return list(prompt.token_ids)


def _spans(text: str, with_special: bool | None, tokenizer: Tokenizer) -> list[Span]:
    """The tokens of a prompt; what the base saw before each text stands before the first character."""
    spans = tokenizer.spans(text)
    if with_special is False:
        return spans
    ids = [span.token_id for span in spans]
    begun = tokenizer.begin(tokenizer.encode(text))
    return [Span(id, 0, 0) for id in begun[: len(begun) - len(ids)]] + spans


def _in_lorax_form(text: str, asked: Tokenize, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    spans = _spans(text, asked.add_special_tokens, tokenizer)
    return [
        {"id": span.token_id, "text": tokenizer.symbol(span.token_id), "start": span.start, "stop": span.stop}
        for span in spans
    ]


def _text_of(ids: list[int], base: Base, tokenizer: Tokenizer) -> str:
    for place, id in enumerate(ids):
        if tokenizer.symbol(id) is None:
            sentence = f"{base.name} has no token {id}; send ids that /tokenize gave."
            raise ApiError(400, "invalid_value", sentence, f"tokens.{place}")
    return tokenizer.write(ids)


def _check(asked: Tokenize, visitor: Visitor) -> None:
    given = [name for name in ("prompt", "messages", "inputs") if getattr(asked, name) is not None]
    if len(given) != 1:
        sentence = f"Give exactly one of prompt, messages and inputs, not {' and '.join(given) or 'none of them'}."
        raise ApiError(400, "invalid_value", sentence, given[0] if given else "prompt")
    if asked.tools and asked.messages is None:
        sentence = "tools are told before messages; give messages, or leave tools out."
        raise ApiError(400, "invalid_value", sentence, "tools")
    texts = [message.to_wire().content for message in asked.messages or ()]
    texts += list(asked.inputs.values()) if isinstance(asked.inputs, dict) else [asked.inputs or "", asked.prompt or ""]
    _check_size(sum(map(len, texts)), visitor, given[0])


def _check_size(
    size: int, visitor: Visitor, param: str | None = None, most: int | None = None, unit: str = "characters"
) -> None:
    """Refuse a stranger more than the text of one prompt. Who has a key may send whatever a body holds."""
    most = settings.MAX_INPUT_CHARS if most is None else most
    if visitor == STRANGER and size > most:
        what = f"{param} has" if param else "This is"
        sentence = f"{what} {size} {unit}; without an API key at most {most} are read. Send less, or a key."
        raise ApiError(413, "request_too_large", sentence, param)
