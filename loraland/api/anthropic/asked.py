"""What ``/v1/messages`` takes, and ``/v1/messages/count_tokens``, of the same body."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Final

from pydantic import ConfigDict, Field, field_validator

from inference.structured.grammar import ConstraintRefused
from inference.wire.protocol import Constraint, Message, Sampling
from loraland.api.anthropic.turns import messages_of
from loraland.api.openai import neutral
from loraland.api.openai.beside import beside
from loraland.api.openai.common import MAX_STOPS, StopString, Strict, Text, Within, unset_of
from loraland.api.openai.constraint import of_schema
from loraland.api.openai.strict import Whole
from loraland.api.tools.asked import Function, Tools, function_of, shown, tools_of, wrong
from loraland.api.tools.reading import constraint_of

LABELS: Final = (
    *("metadata", "service_tier", "cache_control", "betas", "diagnostics", "inference_geo", "speed"),
    *("user_profile_id", "workspace_id"),
)
RULES: Final[Mapping[str, neutral.Rule]] = {
    **dict.fromkeys(LABELS, neutral.LABEL),
    **dict.fromkeys(("mcp_servers", "container", "context_management"), neutral.EMPTY),
    "thinking": neutral.only({"type": "disabled"}, {}, False),
}


TOOL: Final = ("type", "name", "description", "input_schema", "strict")
TOOL_RULES: Final[Mapping[str, neutral.Rule]] = {
    **dict.fromkeys(("cache_control", "eager_input_streaming"), neutral.LABEL),
    "defer_loading": neutral.OFF,
    "input_examples": neutral.EMPTY,
    "allowed_callers": neutral.only(["direct"], []),
}


class MessageRequest(Strict):
    RULES: ClassVar[Mapping[str, neutral.Rule]] = RULES
    model_config = ConfigDict(ignored_types=(cached_property,))

    model: Annotated[str, Field(max_length=1000)]
    messages: Any = None
    system: Any = None
    tools: Any = None
    tool_choice: Any = None
    output_config: Any = None
    output_format: Any = None
    """What `output_config` has as `format`, as older clients send it."""
    max_tokens: Annotated[Whole, Field(ge=1)]
    stream: bool = False
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_k: Annotated[Whole, Field(ge=-1, le=1_000_000)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    stop_sequences: Annotated[list[StopString], Field(max_length=MAX_STOPS)] = Field(default_factory=list)
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] | None = None
    inputs: dict[str, Text] | None = None
    first_token_within: Within = 0.0

    n: ClassVar[int] = 1
    num_tried: ClassVar[int] = 1
    store: ClassVar[bool] = False
    include_usage: ClassVar[bool] = False

    @cached_property
    def read(self) -> tuple[list[Message], tuple[str, ...]]:
        """The messages of the chat, and the paths of what changes nothing. Raises `ApiError`."""
        if not self.messages and self.inputs is not None:
            return [], ()
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
        return (*super().ignored, *self._form[1], *self._tool_labels, *self.read[1])

    @property
    def _tool_labels(self) -> list[str]:
        """What changes nothing of the tools. Calls are of their schema where the answer is forced to make them."""
        labels: list[str] = []
        is_kept = self.offered is None or self.offered.is_forced
        for number, tool in enumerate(self.tools or ()):
            path = f"tools.{number}"
            labels += beside(tool, TOOL, TOOL_RULES, path)
            labels += [f"{path}.strict"] if tool.get("strict") and not is_kept else []
        return labels

    @cached_property
    def _form(self) -> tuple[Constraint | None, list[str]]:
        """What the answer must look like, and the paths of what changes nothing beside it. Raises `ApiError`."""
        config = self.output_config or {}
        if not isinstance(config, dict):
            raise wrong("output_config", f"{shown(config)} is no object; send its format, with a type and a schema")
        labels = beside(config, ("format",), {"effort": neutral.LABEL, "task_budget": neutral.ABSENT}, "output_config")
        path = "output_config.format" if config.get("format") else "output_format"
        return form_of(config.get("format") or self.output_format, path), labels

    @field_validator("stop_sequences", mode="before")
    @classmethod
    def _without_empty(cls, given: Any) -> Any:
        return [each for each in given if each != ""] if isinstance(given, list) else given

    def sampling(self) -> Sampling:
        constraint = constraint_of(self.offered) or self._form[0]
        if constraint and any(message.is_open for message in self.read[0]):
            sentence = "the answer goes on from the assistant's last turn, so that it has no form of its own; leave out"
            raise wrong("messages", f"{sentence} that turn, or output_config and a forced tool_choice")
        return Sampling(
            temperature=float(self.temperature),
            top_k=max(self.top_k, 0),
            top_p=float(self.top_p),
            seed=self.seed,
            stop=tuple(self.stop_sequences),
            max_tokens=self.max_tokens,
            # Its tokens tell which of several stop strings ended an answer.
            logprobs=0 if self.stop_sequences else None,
            constraint=constraint,
            first_token_within=float(self.first_token_within),
            unset=unset_of(self),
        )

    def sources(self) -> list[dict[str, Any]]:
        """What is asked, as `generations.start` takes it."""
        source: dict[str, Any] = dict(self.offered.source()) if self.offered else {}
        source |= {"messages": self.read[0]} if self.read[0] else {}
        return [source | ({"inputs": self.inputs} if self.inputs is not None else {})]


class Counted(MessageRequest):
    """The same, of which only the prompt is counted."""

    max_tokens: Annotated[Whole, Field(ge=1)] = 1


def form_of(given: Any, path: str) -> Constraint | None:
    """What a `format` of the type json_schema wants of an answer. Raises `ApiError`."""
    if not given:
        return None
    if not isinstance(given, dict) or given.get("type") != "json_schema" or not isinstance(given.get("schema"), dict):
        raise wrong(path, f"{shown(given)} is no format; send type json_schema with a schema, which is an object")
    beside(given, ("type", "schema"), {"name": neutral.LABEL}, path)
    try:
        return of_schema(given["schema"])
    except ConstraintRefused as error:
        raise wrong(f"{path}.schema", str(error).rstrip(".")) from None


def _function(given: Any, path: str) -> Function:
    kind = given.get("type", "custom") if isinstance(given, dict) else "custom"
    if kind != "custom":
        raise wrong(f"{path}.type", f"{shown(kind)} is not offered; tools here are the caller's own")
    if isinstance(given, dict):
        beside(given, TOOL, TOOL_RULES, path)
    return function_of(given, path, schema="input_schema")
