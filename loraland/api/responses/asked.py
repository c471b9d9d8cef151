"""What ``/v1/responses`` takes: nothing is kept between two calls, so a call brings its whole conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from inference.structured.grammar import ConstraintRefused
from inference.wire.protocol import Constraint, Message, Sampling
from loraland.api.openai import neutral
from loraland.api.openai.beside import beside
from loraland.api.openai.common import MAX_LOGPROBS, Common, MaxTokens
from loraland.api.openai.constraint import of_response_format, of_schema
from loraland.api.openai.strict import Whole
from loraland.api.responses.items import messages_of
from loraland.api.tools.asked import Function, Tools, function_of, shown, tools_of, wrong
from loraland.api.tools.reading import constraint_of

LOGPROBS: Final = "message.output_text.logprobs"
TOOL: Final = ("type", "name", "description", "parameters", "strict")
TOOL_RULES: Final[Mapping[str, neutral.Rule]] = {
    **dict.fromkeys(("output_schema", "cache_control"), neutral.LABEL),
    "defer_loading": neutral.OFF,
    "allowed_callers": neutral.only(["direct"], []),
}
_KEPT: Final = "nothing is kept between calls; send the conversation itself as input"


class ResponseRequest(Common):
    RULES: ClassVar[Mapping[str, neutral.Rule]] = {
        **neutral.REQUEST,
        "max_tool_calls": neutral.LABEL,
        "prompt_cache_options": neutral.LABEL,
        "context_management": neutral.EMPTY,
    }
    model_config = ConfigDict(ignored_types=(cached_property,))

    input: Any = None
    instructions: str | None = None
    max_output_tokens: MaxTokens = None
    text: dict[str, Any] | None = None
    include: Annotated[list[str], Field(max_length=100)] = []
    """What an answer tells beside its text: log-probabilities, as `LOGPROBS`. All else is not here to tell."""
    top_logprobs: Annotated[Whole, Field(ge=0, le=MAX_LOGPROBS)] = 0
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, Any] | None = None
    truncation: Literal["auto", "disabled"] = "auto"
    previous_response_id: Any = None
    conversation: Any = None
    prompt: Any = None
    background: bool = False

    @field_validator("previous_response_id", "conversation", "prompt")
    @classmethod
    def _nothing_is_kept(cls, given: Any) -> Any:
        if given not in ("", {}):
            raise ValueError(_KEPT)
        return None

    @field_validator("text")
    @classmethod
    def _is_known(cls, text: dict[str, Any] | None) -> dict[str, Any] | None:
        if unknown := [name for name in text or () if name not in ("format", "verbosity")]:
            raise ValueError(f"{unknown[0][:80]!r} is not offered; there are format and verbosity")
        return text

    @model_validator(mode="after")
    def _told_without_tools(self) -> ResponseRequest:
        if self.tells_logprobs and self.tools:
            raise ValueError(f"{LOGPROBS} are told of texts alone; leave out tools, or ask /v1/chat/completions")
        if self.top_logprobs and not self.tells_logprobs:
            raise ValueError(f"top_logprobs are told beside the chosen tokens; include {LOGPROBS} as well")
        return self

    @property
    def tells_logprobs(self) -> bool:
        return LOGPROBS in self.include

    @property
    def num_logprobs(self) -> int | None:
        return self.top_logprobs if self.tells_logprobs else None

    @field_validator("background")
    @classmethod
    def _in_front(cls, background: bool) -> bool:
        if background:
            raise ValueError("an answer is told while its caller waits, or by the stream; leave it out")
        return background

    @field_validator("n")
    @classmethod
    def _one(cls, n: int, info: ValidationInfo) -> int:
        if n != 1:
            raise ValueError("a response is one answer; /v1/chat/completions tells several")
        return n

    @property
    def ignored(self) -> tuple[str, ...]:
        is_more = any(name != LOGPROBS for name in self.include)
        labels = (*(("metadata",) if self.metadata else ()), *(("include",) if is_more else ()))
        labels += ("text.verbosity",) if (self.text or {}).get("verbosity") else ()
        return (*super().ignored, *labels, *self._tool_labels, *self.read[1])

    @property
    def _tool_labels(self) -> list[str]:
        """What changes nothing of the tools. Calls are of their schema where the answer is forced to make them."""
        labels: list[str] = []
        is_kept = self.offered is None or self.offered.is_forced
        for number, tool in enumerate(self.tools or ()):
            labels += beside(tool, TOOL, TOOL_RULES, f"tools.{number}")
            labels += [f"tools.{number}.strict"] if tool.get("strict") and not is_kept else []
        return labels

    @property
    def keep_turns(self) -> bool:
        return self.truncation == "disabled"

    @property
    def token_limit(self) -> int:
        return self.max_output_tokens or super().token_limit

    @property
    def include_usage(self) -> bool:
        return False

    @cached_property
    def read(self) -> tuple[list[Message], tuple[str, ...]]:
        """The input's messages, and the paths of its items that change nothing. Raises `ApiError`."""
        if self.input is None and self.inputs is not None:
            return [], ()
        return messages_of(self.input)

    @cached_property
    def offered(self) -> Tools | None:
        """The tools among which the answer may choose. Raises `ApiError`."""
        return tools_of(self.tools, self.tool_choice, self.parallel_tool_calls, _function)

    def form(self) -> Constraint | None:
        """What ``text.format`` wants of the answer. Raises `ApiError`."""
        given = (self.text or {}).get("format")
        try:
            if isinstance(given, dict) and given.get("type") == "json_schema":
                if not isinstance(given.get("schema"), dict):
                    raise wrong("text.format.schema", f"{shown(given.get('schema'))} is no JSON schema; send an object")
                beside(given, ("type", "name", "description", "schema", "strict"), {}, "text.format")
                return of_schema(given["schema"])
            return of_response_format(given)
        except ConstraintRefused as error:
            raise wrong("text.format", str(error).rstrip(".")) from None

    def sampling(self) -> Sampling:
        sampling = super().sampling()
        form = self.form()
        if form and sampling.constraint:
            raise wrong("text.format", "the form of the answer is given twice; leave out text.format or the other")
        constraint = constraint_of(self.offered) or form
        return replace(sampling, constraint=constraint) if constraint else sampling

    def sources(self) -> list[dict[str, Any]]:
        """What is asked, as `generations.start` takes it."""
        messages = list(self.read[0])
        if self.instructions:
            messages.insert(0, Message("system", self.instructions))
        source: dict[str, Any] = dict(self.offered.source()) if self.offered else {}
        source |= {"messages": messages} if messages else {}
        return [source | ({"inputs": self.inputs} if self.inputs is not None else {})]


def _function(given: Any, path: str) -> Function:
    """A tool as responses have it: flat, of the type function."""
    kind = given.get("type") if isinstance(given, dict) else None
    if kind != "function":
        raise wrong(f"{path}.type", f"{shown(kind)} is not offered; tools here have the type function")
    beside(given, TOOL, TOOL_RULES, path)
    return function_of(given, path)
