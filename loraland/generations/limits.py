"""What a request may ask for, and how often: checks on its size, and the hourly quota of anonymous visitors."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from django.conf import settings
from redis.exceptions import RedisError

from inference.adapters.storable import is_storable
from inference.wire.protocol import Message, Sampling
from loraland.catalogue.composition import Composition
from loraland.catalogue.models import AdapterVersion
from loraland.generations.filling import forms
from loraland.generations.visitor import SESSIONS_PER_ADDRESS, Visitor
from loraland.inference_client import redis
from loraland.refusal import Refused

HOUR: Final = 3600

SPEND: Final = """
for i, key in ipairs(KEYS) do
    if tonumber(redis.call('GET', key) or '0') >= tonumber(ARGV[i + 1]) then
        return math.max(1, redis.call('TTL', key))
    end
end
for _, key in ipairs(KEYS) do
    if redis.call('INCR', key) == 1 then redis.call('EXPIRE', key, ARGV[1]) end
end
return 0
"""
"""Count one request under every key, or under none: seconds to wait when a key has reached its limit."""


def clamp(sampling: Sampling) -> Sampling:
    """`sampling` with at most the tokens that this site gives out, and no more required than allowed."""
    max_tokens = min(sampling.max_tokens, settings.MAX_NEW_TOKENS)
    return replace(sampling, max_tokens=max_tokens, min_tokens=min(sampling.min_tokens, max_tokens))


def check_stops(sampling: Sampling) -> None:
    """Refuse stop strings that no answer can contain."""
    if not all(map(is_storable, sampling.stop)):
        raise Refused("invalid_request", "A stop string contains a NUL or half a character.", param="stop")


def check_size(
    messages: tuple[Message, ...] | None,
    prompt: str | None,
    inputs: dict[str, str] | None,
    token_ids: tuple[int, ...] | None = None,
) -> None:
    """Refuse a request without text, with two kinds of text, or with too much of it. A token counts as a character."""
    given = {name: value for name, value in locals().items() if value is not None}
    if len(given) != 1:
        raise Refused("invalid_request", "Give exactly one of messages, prompt and inputs.")
    (name,) = given
    if token_ids is not None:
        return _check_tokens(token_ids)
    texts = (
        [message.content + message.tool_calls for message in messages or ()]
        + [prompt or ""]
        + list((inputs or {}).values())
    )
    if not any(text.strip() for text in texts):
        raise Refused("invalid_request", "There is no text to answer; write something first.", param=name)
    if not all(map(is_storable, texts)):
        sentence = "The text contains a NUL or half a character; remove it and send the rest."
        raise Refused("invalid_request", sentence, param=name)
    if (size := sum(map(len, texts))) > settings.MAX_INPUT_CHARS:
        last = len(messages[-1].content) if messages else size
        raise Refused("input_too_long", _too_long(size, last), 413, param=name)


def _check_tokens(token_ids: tuple[int, ...]) -> None:
    if not token_ids:
        raise Refused("invalid_request", "The prompt has no token; send at least one.", param="prompt")
    if (size := len(token_ids)) > settings.MAX_INPUT_CHARS:
        sentence = f"The prompt has {size} tokens; at most {settings.MAX_INPUT_CHARS} are allowed. Shorten it."
        raise Refused("input_too_long", sentence, 413, param="prompt")


def _too_long(size: int, last: int) -> str:
    """What was counted, `last` of it in the last message of a chat, and what to do.

    Earlier turns are read again with each message, and so they count.
    """
    most = settings.MAX_INPUT_CHARS
    if last == size:
        return f"The text has {size} characters; at most {most} are allowed. Shorten it."
    if last > most:
        return f"Your message has {last} characters; at most {most} are allowed. Shorten it."
    return (
        f"Your message has {last} characters and the earlier ones of this chat {size - last}; "
        f"together at most {most} are read. Shorten it, or start a new chat."
    )


def check_inputs(
    version: AdapterVersion | Composition | None, inputs: dict[str, str] | None, has_messages: bool
) -> None:
    """Refuse inputs that do not fill the adapter's template field by field, and messages that cannot."""
    fields = version.field_names if version and version.template else ()
    if inputs is None:
        if has_messages and len(fields) > 1:
            sentence = f"This adapter's prompt has several fields; {forms(fields)}."
            raise Refused("inputs_required", sentence, param="inputs")
        return
    if not fields:
        raise Refused("invalid_request", "There is no prompt template to fill here; send messages.", param="inputs")
    if missing := [name for name in fields if name not in inputs]:
        sentence = f"The field {missing[0]} of the prompt is missing; the fields are {', '.join(fields)}."
        raise Refused("invalid_request", sentence, param=f"inputs.{missing[0]}")
    if unknown := [name for name in inputs if name not in fields]:
        sentence = f"The prompt has no field {unknown[0][:80]!r}; its fields are {', '.join(fields)}."
        raise Refused("invalid_request", sentence, param="inputs")


def check_tools(version: AdapterVersion | Composition | None, tools: str, choice: str) -> None:
    """Refuse tools that an adapter could not be told of, and more text of them than is read."""
    if not is_storable(tools):
        sentence = "The tools contain half a character; remove it and send the rest."
        raise Refused("invalid_request", sentence, param="tools")
    if (size := len(tools)) > settings.MAX_INPUT_CHARS:
        sentence = f"The tools have {size} characters; at most {settings.MAX_INPUT_CHARS} are read. Shorten them."
        raise Refused("input_too_long", sentence, 413, param="tools")
    if choice in ("auto", "one") and version and version.template:
        sentence = (
            "This adapter answers a prompt of its own, which has no place for tools. Set tool_choice to required or to "
            "one function, which then has the form of its arguments forced on the answer, or ask the base."
        )
        raise Refused("invalid_request", sentence, param="tools")


async def may_begin_session(address: str) -> bool:
    """Count one more session of an address in this hour, as many as it has anonymous answers: more are of no use.

    Whose address is unknown is not counted, and nobody is while Redis is away, which keeps the answers from all.
    """
    if not address:
        return True
    limit = settings.ANONYMOUS_PER_HOUR * SESSIONS_PER_ADDRESS
    try:
        return not await redis().eval(SPEND, 1, f"quota:sessions:{address}", HOUR, limit)
    except RedisError:
        return True


async def spend_quota(visitor: Visitor) -> None:
    """Count one request of an anonymous visitor, by session and by address; refuse it past the hourly limit."""
    if not visitor.is_anonymous:
        return
    limits = {f"quota:{visitor.tenant}": settings.ANONYMOUS_PER_HOUR}
    if visitor.ip:
        limits[f"quota:ip:{visitor.ip}"] = settings.ANONYMOUS_PER_HOUR * SESSIONS_PER_ADDRESS
    wait = await redis().eval(SPEND, len(limits), *limits, HOUR, *limits.values())
    if wait:
        sentence = f"You have used this hour's {settings.ANONYMOUS_PER_HOUR} free answers; sign in or come back later."
        raise Refused("quota", sentence, 429, retry_after=int(wait))
