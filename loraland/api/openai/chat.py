"""What ``/v1/chat/completions`` takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from inference.wire.protocol import Message
from loraland.api.openai import neutral
from loraland.api.openai.common import MAX_LOGPROBS, Common, MaxTokens
from loraland.api.openai.strict import Strict, Text, Whole

NOT_READ: Final = {
    "image_url": "images are not read here; send text parts only",
    "input_image": "images are not read here; send text parts only",
    "image": "images are not read here; send text parts only",
    "input_audio": "audio is not heard here; send text parts only",
    "audio_url": "audio is not heard here; send text parts only",
    "video_url": "videos are not watched here; send text parts only",
    "file": "files are not read here; send their text as a text part",
    "input_file": "files are not read here; send their text as a text part",
    "document": "documents are not read here; send their text as a text part",
}


class TextPart(Strict):
    RULES: ClassVar[Mapping[str, neutral.Rule]] = neutral.PART

    type: Literal["text"]
    text: Text

    @field_validator("type", mode="before")
    @classmethod
    def _is_text(cls, kind: Any) -> Any:
        if isinstance(kind, str) and (sentence := NOT_READ.get(kind)):
            raise ValueError(sentence)
        return kind


class ChatMessage(Strict):
    RULES: ClassVar[Mapping[str, neutral.Rule]] = neutral.MESSAGE

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart] = ""

    @property
    def ignored(self) -> tuple[str, ...]:
        parts = self.content if isinstance(self.content, list) else []
        return (*super().ignored, *(f"content.*.{name}" for part in parts for name in part.ignored))

    def to_wire(self) -> Message:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, content)


class ChatCompletion(Common):
    messages: Annotated[list[ChatMessage], Field(max_length=1000)] | None = None
    max_completion_tokens: MaxTokens = None
    logprobs: bool = False
    top_logprobs: Annotated[Whole, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    truncation: Literal["auto", "disabled"] = "auto"
    """Whether a chat that outgrows the context loses its oldest turns, or is refused."""

    @field_validator("messages")
    @classmethod
    def _are_some(cls, messages: list[ChatMessage] | None, info: ValidationInfo) -> list[ChatMessage] | None:
        if not messages and info.data.get("inputs") is None:
            raise ValueError("this list is empty; send at least one message, with the role user")
        return messages

    @model_validator(mode="after")
    def _is_whole(self) -> ChatCompletion:
        if self.messages is None and self.inputs is None:
            raise ValueError("give messages, or inputs for an adapter with fields of its own")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is only allowed with logprobs: true")
        return self

    @property
    def ignored(self) -> tuple[str, ...]:
        of_messages = (f"messages.*.{name}" for message in self.messages or () for name in message.ignored)
        return tuple(dict.fromkeys((*super().ignored, *of_messages)))

    @property
    def keep_turns(self) -> bool:
        return self.truncation == "disabled"

    @property
    def token_limit(self) -> int:
        return self.max_completion_tokens or super().token_limit

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def sources(self) -> list[dict[str, Any]]:
        """What is asked, as `generations.start` takes it."""
        messages = [message.to_wire() for message in self.messages or ()]
        told = {"messages": messages} if messages else {}
        return [told | ({"inputs": self.inputs} if self.inputs is not None else {})]
