"""What a request asks, as token ids: the rules of messages, prompt and inputs, and what is left out of long chats."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from inference.model.tokenizer import Tokenizer, TokenizerError
from inference.tasks.template import pieces
from inference.wire.failures import FailureCode
from inference.wire.protocol import Generate, Message

ROLES = ("system", "user", "assistant", "tool")
ANSWER_SHARE = 4
"""Old turns leave a chat until an answer of `max_tokens`, or a fourth of the context, fits behind the rest."""


class PromptError(Exception):
    """A request that cannot be put into tokens; the text is one sentence."""

    def __init__(self, code: FailureCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class Prompt:
    """Token ids, and how many of the oldest turns did not fit."""

    token_ids: tuple[int, ...]
    dropped_turns: int = 0


def build_prompt(request: Generate, tokenizer: Tokenizer, context_length: int) -> Prompt:
    """The prompt of `request`, with room for at least one token of answer, if one is asked for, within `context_length`
    tokens.

    Raises `PromptError` for a request that breaks a rule or is too long.
    """
    given = [name for name in ("messages", "prompt", "inputs", "token_ids") if getattr(request, name) is not None]
    if len(given) != 1:
        raise _invalid(
            f"Send exactly one of messages, prompt, inputs and token_ids, not {' and '.join(given) or 'none of them'}."
        )
    try:
        prompt = _encode(request, tokenizer, context_length)
    except TokenizerError as error:
        raise _invalid(f"{str(error)[0].upper()}{str(error)[1:]}.") from error
    except UnicodeEncodeError as error:
        raise _invalid("The text holds half a character (a lone surrogate); send whole characters.") from error
    if not prompt.token_ids:
        raise _invalid("The prompt is empty; write something to answer.")
    is_answered = bool(request.sampling.max_tokens) and not request.is_embedding
    excess = len(prompt.token_ids) + is_answered - context_length
    if excess > 0:
        need = " and the answer needs at least one" if is_answered else ""
        raise PromptError(
            "prompt_too_long",
            f"This model's maximum context length is {context_length} tokens. The prompt has "
            f"{len(prompt.token_ids)} tokens{need}; shorten it by {excess} tokens or more.",
        )
    return prompt


def fill(template: str, values: dict[str, str], tokenizer: Tokenizer) -> list[int]:
    """Token ids of `template` with the places of `values` filled, in one pass: a value is never read as a template."""
    if not values:
        return tokenizer.begin(tokenizer.encode(template))
    parts = (tokenizer.guard(values[piece]) if is_field else piece for piece, is_field in pieces(template, values))
    return tokenizer.begin(tokenizer.encode_guarded("".join(parts)))


def _encode(request: Generate, tokenizer: Tokenizer, context_length: int) -> Prompt:
    if request.prompt is not None:
        _check_text("prompt", request.prompt)
        return Prompt(tuple(tokenizer.begin(tokenizer.encode(request.prompt))))
    if request.token_ids is not None:
        return Prompt(_known_ids(request.token_ids, tokenizer))
    if request.inputs is not None:
        return Prompt(tuple(_fill_inputs(request, request.inputs, tokenizer)))
    messages = _checked(request.messages or ())
    if request.adapter is not None and request.adapter.template:
        return Prompt(tuple(_fill_messages(request, messages, tokenizer)))
    if request.keep_turns:
        return Prompt(tuple(tokenizer.encode_chat(messages, request.tools)))
    reserve = min(request.sampling.max_tokens, context_length // ANSWER_SHARE)
    return _fit_chat(messages, request.tools, tokenizer, context_length - reserve)


def _known_ids(token_ids: tuple[int, ...], tokenizer: Tokenizer) -> tuple[int, ...]:
    """`token_ids`, each of which the tokenizer has."""
    for place, token_id in enumerate(token_ids):
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < tokenizer.vocab_size:
            last = tokenizer.vocab_size - 1
            raise _invalid(f"Token {place} of the prompt is {token_id!r}; ids are whole numbers from 0 to {last}.")
    return token_ids


def _fill_inputs(request: Generate, inputs: dict[str, str], tokenizer: Tokenizer) -> list[int]:
    """Fill the adapter's template with exactly its own fields."""
    if request.adapter is None or not request.adapter.template:
        raise _invalid("inputs fill an adapter's own template, and this model has none; send messages or a prompt.")
    if not isinstance(inputs, dict):
        raise _invalid("inputs must be an object with a text for each field of the template.")
    missing = [name for name in request.adapter.fields if name not in inputs]
    unknown = [name for name in inputs if name not in request.adapter.fields]
    if missing or unknown:
        parts = [f"{word}: {', '.join(names)}" for word, names in (("missing", missing), ("unknown", unknown)) if names]
        wanted = ", ".join(request.adapter.fields) or "no fields"
        raise _invalid(f"inputs must have exactly the template's fields ({wanted}); {'; '.join(parts)}.")
    for name, value in inputs.items():
        _check_text(f"inputs.{name}", value)
    return fill(request.adapter.template, inputs, tokenizer)


def _fill_messages(request: Generate, messages: tuple[Message, ...], tokenizer: Tokenizer) -> list[int]:
    """Fill the one field of the adapter's template with the last user message."""
    assert request.adapter is not None
    fields = request.adapter.fields
    if len(fields) != 1:
        wanted = ", ".join(fields) or "none"
        raise _invalid(
            f"This adapter's template has {len(fields)} fields ({wanted}); send inputs with a text for each."
        )
    said = [message.content for message in messages if message.role == "user"]
    if not said:
        raise _invalid("messages hold no message of the user to answer; add one with the role user.")
    return fill(request.adapter.template, {fields[0]: said[-1]}, tokenizer)


def _fit_chat(messages: tuple[Message, ...], tools: str, tokenizer: Tokenizer, limit: int) -> Prompt:
    """The chat without as many of its oldest turns as it takes to fit `limit` tokens.

    System messages stay, and so does the last message, with the user's before it where the answer goes on from it.
    What is kept starts with a user's turn, so that what a tool brought is not without its call.
    """
    system = tuple(message for message in messages if message.role == "system")
    turns = tuple(message for message in messages if message.role != "system")
    last = len(turns) - 1
    is_whole = bool(turns) and turns[last].role != "tool" and not turns[last].is_open
    starts = [n for n, turn in enumerate(turns) if turn.role == "user" or (n == last and is_whole)]

    def encode_from(start: int) -> list[int]:
        return tokenizer.encode_chat(system + turns[start:] if start else messages, tools)

    ids = encode_from(0)
    if len(ids) <= limit or not starts:
        return Prompt(tuple(ids))
    place = bisect_left(starts, True, key=lambda start: len(encode_from(start)) <= limit)
    first = starts[min(place, len(starts) - 1)]
    return Prompt(tuple(encode_from(first)), first)


def _checked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if not messages:
        raise _invalid("messages are empty; send at least one.")
    for message in messages:
        if message.role not in ROLES:
            raise _invalid(f"A message has the role {message.role!r}; roles are {', '.join(ROLES)}.")
        _check_text("A message's content", message.content)
    return messages


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise _invalid(f"{name} must be a string, not {type(value).__name__}; write it as text.")


def _invalid(sentence: str) -> PromptError:
    return PromptError("invalid_request", sentence)
