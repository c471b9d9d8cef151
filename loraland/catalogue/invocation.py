"""What invokes an activated adapter (aLoRA), in the words of its base, and whether the prompts that it gets here do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from inference.adapters.invocation import place_of, read_invocation
from inference.engine.prompt import PromptError, build_prompt
from inference.wire.protocol import UNINVOKED, AdapterRef, Generate, Message
from loraland.base_files import tokenizer_of
from loraland.bases import Base
from loraland.refusal import Refused

ANY_TEXT: Final = "x"
"""In the place of what a visitor writes."""
_UNLIMITED: Final = 10**9


def invocation_of(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The tokens that invoke an adapter of that `config`; none for a plain one, which always answers."""
    return read_invocation(config)[0]


def spelt(config: Mapping[str, Any], base: Base) -> str:
    """The same as text, control tokens by their names; empty where the tokenizer of `base` is not here."""
    try:
        return tokenizer_of(base, config).write(list(invocation_of(config)))
    except Refused:
        return ""


def fault_of(config: Mapping[str, Any], template: str, names: Sequence[str], base: Base) -> str:
    """Why an adapter would never answer a prompt of its own; empty where it would, or nobody here can tell."""
    inputs = dict.fromkeys(names, ANY_TEXT)
    request = Generate("", AdapterRef("", template, tuple(names)), inputs=inputs)
    if not template or _is_invoked(config, request, base):
        return ""
    return (
        f"Its prompt does not hold what invokes it, {_shown(config, base)}, so the base alone would answer; write that "
        "into the template where the adapter is to begin."
    )


def remark_of(config: Mapping[str, Any], template: str, base: Base) -> str:
    """What its owner should know of an activated adapter; empty for a plain one."""
    if not invocation_of(config):
        return ""
    told = f"It is an aLoRA: active from the last {_shown(config, base)} of a prompt on; without that the base answers."
    chat = Generate("", messages=(Message("user", ANY_TEXT),))
    is_left_out = not template and not _is_invoked(config, chat, base)
    return (
        f"{told} No chat on {base.name} holds it; give it a prompt that does, or send it one." if is_left_out else told
    )


def _is_invoked(config: Mapping[str, Any], request: Generate, base: Base) -> bool:
    """Whether the prompt of `request` invokes the adapter, as far as anybody here can tell."""
    invocation = invocation_of(config)
    try:
        tokenizer = tokenizer_of(base, config)
        return (
            not invocation or place_of(invocation, build_prompt(request, tokenizer, _UNLIMITED).token_ids) != UNINVOKED
        )
    except (Refused, PromptError):
        return True


def _shown(config: Mapping[str, Any], base: Base) -> str:
    text = spelt(config, base)
    return repr(text) if text else f"tokens {', '.join(map(str, invocation_of(config)))}"
