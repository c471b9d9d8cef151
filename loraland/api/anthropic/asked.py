"""What ``/v1/messages`` takes, and ``/v1/messages/count_tokens``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Final

from pydantic import ConfigDict, Field, field_validator

from inference.wire.protocol import Message, Sampling
from loraland.api.anthropic.turns import messages_of
from loraland.api.openai import neutral
from loraland.api.openai.common import MAX_STOPS, StopString, Strict, Text
from loraland.api.openai.strict import Whole
from loraland.api.tools.asked import Function, Tools, function_of, shown, tools_of, wrong
from loraland.api.tools.reading import constraint_of

RULES: Final[Mapping[str, neutral.Rule]] = {
    **dict.fromkeys(("metadata", "service_tier", "cache_control", "output_config", "betas"), neutral.LABEL),
    **dict.fromkeys(("mcp_servers", "container", "context_management"), neutral.EMPTY),
    "thinking": neutral.only({"type": "disabled"}, {}, False),
}


class Counted(Strict):
    """A conversation before a model."""

    RULES: ClassVar[Mapping[str, neutral.Rule]] = RULES
    model_config = ConfigDict(ignored_types=(cached_property,))

    model: Annotated[str, Field(max_length=1000)]
    messages: Any = None
    system: Any = None
    tools: Any = None
    tool_choice: Any = None

    @cached_property
    def read(self) -> tuple[list[Message], tuple[str, ...]]:
        """The messages of the chat, and the paths of what changes nothing. Raises `ApiError`."""
        return messages_of(self.messages, self.system)

    @cached_property
    def offered(self) -> Tools | None:
        """The tools among which the answer may choose. Raises `ApiError`."""
        choice = self.tool_choice or {}
        if not isinstance(choice, dict) or choice.get("type", "auto") not in ("auto", "any", "tool", "none"):
            raise wrong("tool_choice", f"{shown(choice)} is no choice; its type is auto, any, tool or none")
        kind = choice.get("type", "auto")
        named = {"type": "function", "name": choice.get("name")} if kind == "tool" else kind
        is_parallel = False if choice.get("disable_parallel_tool_use") else None
        return tools_of(self.tools, named, is_parallel, _function)

    @property
    def ignored(self) -> tuple[str, ...]:
        return (*super().ignored, *self.read[1])

    def source(self) -> dict[str, Any]:
        """What is asked, as `generations.start` takes it."""
        return (dict(self.offered.source()) if self.offered else {}) | {"messages": self.read[0]}


class MessageRequest(Counted):
    max_tokens: Annotated[Whole, Field(ge=1)]
    stream: bool = False
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_k: Annotated[Whole, Field(ge=-1, le=1_000_000)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    stop_sequences: Annotated[list[StopString], Field(max_length=MAX_STOPS)] = Field(default_factory=list)
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] | None = None
    inputs: dict[str, Text] | None = None

    n: ClassVar[int] = 1
    num_tried: ClassVar[int] = 1
    store: ClassVar[bool] = False
    include_usage: ClassVar[bool] = False

    @field_validator("stop_sequences", mode="before")
    @classmethod
    def _without_empty(cls, given: Any) -> Any:
        return [each for each in given if each != ""] if isinstance(given, list) else given

    def sampling(self) -> Sampling:
        return Sampling(
            temperature=float(self.temperature),
            top_k=max(self.top_k, 0),
            top_p=float(self.top_p),
            seed=self.seed,
            stop=tuple(self.stop_sequences),
            max_tokens=self.max_tokens,
            # Its tokens tell which of several stop strings ended an answer.
            logprobs=0 if self.stop_sequences else None,
            constraint=constraint_of(self.offered),
        )

    def sources(self) -> list[dict[str, Any]]:
        return [self.source() | ({"inputs": self.inputs} if self.inputs is not None else {})]


def _function(given: Any, path: str) -> Function:
    kind = given.get("type", "custom") if isinstance(given, dict) else "custom"
    if kind != "custom":
        raise wrong(f"{path}.type", f"{shown(kind)} is not offered; tools here are the caller's own")
    return function_of(given, path, schema="input_schema")
