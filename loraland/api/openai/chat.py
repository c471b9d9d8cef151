"""What ``/v1/chat/completions`` takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from inference.wire.protocol import Message
from loraland.api.openai.common import MAX_LOGPROBS, Common, Strict, Text


class TextPart(Strict):
    type: Literal["text"]
    text: Text


class ChatMessage(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart] = ""
    name: str | None = None

    def to_wire(self) -> Message:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, content)


class ChatCompletion(Common):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> ChatCompletion:
        if (self.messages is None) == (self.inputs is None):
            raise ValueError("give either messages or inputs")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is only allowed with logprobs: true")
        return self

    @property
    def token_limit(self) -> int:
        return self.max_completion_tokens or super().token_limit

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def sources(self) -> list[dict[str, Any]]:
        """What is asked, as `generations.start` takes it."""
        if self.messages is None:
            return [{"inputs": self.inputs}]
        return [{"messages": [message.to_wire() for message in self.messages]}]
