"""What ``/v1/chat/completions`` takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from inference.wire.protocol import Message, Sampling
from loraland.api.openai import neutral
from loraland.api.openai.calls import ChatCalls
from loraland.api.openai.common import MAX_LOGPROBS, Common, MaxTokens
from loraland.api.openai.strict import Strict, Text, Whole
from loraland.api.tools.asked import Tools, function_of, tools_of, wrong
from loraland.api.tools.history import calls_of, one_call
from loraland.api.tools.reading import constraint_of

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


def _as_text(part: Any) -> Any:
    """A part that OpenAI writes where an answer was refused, as the text that it was; any other part as it is."""
    if isinstance(part, dict) and part.get("type") == "refusal" and "refusal" in part:
        return {"text" if name == "refusal" else name: value for name, value in part.items()} | {"type": "text"}
    return part


class ChatMessage(Strict):
    RULES: ClassVar[Mapping[str, neutral.Rule]] = neutral.MESSAGE

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[TextPart] = ""
    name: str | None = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    function_call: dict[str, Any] | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _refusals_are_text(cls, content: Any) -> Any:
        return [_as_text(part) for part in content] if isinstance(content, list) else content

    @property
    def ignored(self) -> tuple[str, ...]:
        parts = self.content if isinstance(self.content, list) else []
        names = ("name",) if self.name and self.role != "function" else ()
        return (*names, *super().ignored, *(f"content.*.{name}" for part in parts for name in part.ignored))

    def to_wire(self, path: str = "messages") -> Message:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        if self.role in ("tool", "function"):
            return Message("tool", content, tool_call_id=self._answered(path))
        role = "system" if self.role == "developer" else self.role
        return Message(role, content, self._calls(path) if role == "assistant" else "")

    def _answered(self, path: str) -> str:
        """The id of the call that this answers; a function's is its name."""
        wanted = "tool_call_id" if self.role == "tool" else "name"
        id = self.tool_call_id if self.role == "tool" else self.name
        if not id:
            raise wrong(f"{path}.{wanted}", f"a message with the role {self.role} has the {wanted} of what it answers")
        return id

    def _calls(self, path: str) -> str:
        if self.function_call is None:
            return calls_of(self.tool_calls, f"{path}.tool_calls")
        name, arguments = self.function_call.get("name"), self.function_call.get("arguments")
        return json.dumps([one_call(name, name, arguments, f"{path}.function_call")], ensure_ascii=False)


class ChatCompletion(Common):
    messages: Annotated[list[ChatMessage], Field(max_length=1000)] | None = None
    max_completion_tokens: MaxTokens = None
    logprobs: bool = False
    top_logprobs: Annotated[Whole, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: Any = None
    function_call: Any = None
    truncation: Literal["auto", "disabled"] = "auto"
    """Whether a chat that outgrows the context loses its oldest turns, or is refused."""

    @field_validator("top_logprobs")
    @classmethod
    def _beside_logprobs(cls, num: int | None, info: ValidationInfo) -> int | None:
        if num and info.data.get("logprobs") is False:
            raise ValueError("the likeliest tokens are told beside the chosen ones; send logprobs: true as well")
        return num

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

    @property
    def is_old(self) -> bool:
        """Whether it offers functions as there were before there were tools."""
        return bool(self.functions) and not self.tools

    def offered(self) -> Tools | None:
        """The tools among which the answer may choose. Raises `ApiError` for what is none."""
        if self.is_old:
            return tools_of(self.functions, self.function_call, False, function_of, "functions")
        return tools_of(self.tools, self.tool_choice, self.parallel_tool_calls)

    def calls(self) -> ChatCalls | None:
        """How the answer's calls are told."""
        tools = self.offered()
        return ChatCalls(tools, self.is_old) if tools else None

    def sampling(self) -> Sampling:
        sampling, constraint = super().sampling(), constraint_of(self.offered())
        return replace(sampling, constraint=constraint) if constraint else sampling

    def sources(self) -> list[dict[str, Any]]:
        """What is asked, as `generations.start` takes it."""
        tools = self.offered()
        messages = [message.to_wire(f"messages.{number}") for number, message in enumerate(self.messages or ())]
        source: dict[str, Any] = tools.source() if tools else {}
        source |= {"messages": messages} if messages else {}
        return [source | ({"inputs": self.inputs} if self.inputs is not None else {})]
