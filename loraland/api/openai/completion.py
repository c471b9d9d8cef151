"""What ``/v1/completions`` takes."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field, ValidationInfo, field_validator, model_validator

from loraland.api.openai.common import MAX_CHOICES, MAX_LOGPROBS, Common
from loraland.api.openai.strict import FALSE_IS_NONE, MINUS_ONE_IS_NONE, Whole
from loraland.bases import is_auto

MAX_PROMPTS: Final = 2048
"""How many prompts a call may hold, and how many answers it may ask for in all."""
FORMS: Final = "a text, a list of texts, a list of token ids, or a list of lists of token ids"
_TEXT: Final = {"type": "string"}
_IDS: Final = {"type": "array", "items": {"type": "integer"}}
SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [_TEXT, {"type": "array", "items": _TEXT}, _IDS, {"type": "array", "items": _IDS}]
}


class Completion(Common):
    prompt: Annotated[Any, Field(json_schema_extra=SCHEMA)] = None
    max_tokens: Annotated[Annotated[Whole, Field(ge=0)] | None, MINUS_ONE_IS_NONE] = None
    logprobs: Annotated[Annotated[Whole, Field(ge=0, le=MAX_LOGPROBS)] | None, FALSE_IS_NONE] = None
    best_of: Annotated[Whole, Field(ge=1, le=MAX_CHOICES)] | None = None
    echo: bool = False
    suffix: str = ""

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, prompt: Any) -> Any:
        prompts = prompts_of(prompt)
        if len(prompts) > MAX_PROMPTS:
            raise ValueError(f"these are {len(prompts)} prompts; give at most {MAX_PROMPTS} in one call")
        return prompt

    @field_validator("suffix")
    @classmethod
    def _check_suffix(cls, suffix: str) -> str:
        if suffix:
            raise ValueError("what stands behind the answer cannot be taken into account here; leave it out")
        return suffix

    @field_validator("best_of")
    @classmethod
    def _check_best_of(cls, best_of: int | None, info: ValidationInfo) -> int | None:
        n = info.data.get("n", 1)
        if best_of is not None and best_of < n:
            raise ValueError(f"the best {n} of {best_of} answers cannot be told; let best_of be at least n")
        if best_of is not None and best_of > n and info.data.get("stream"):
            raise ValueError("which answers are the best is known at their end; leave out stream or best_of")
        return best_of

    @model_validator(mode="after")
    def _is_whole(self) -> Completion:
        if (self.prompt is None) == (self.inputs is None):
            raise ValueError("give either prompt or inputs")
        if self.max_tokens == 0 and not (self.echo or self.prompt_logprobs is not None):
            raise ValueError("with max_tokens 0 nothing is asked for; give at least 1, or echo: true for the prompt")
        if (num := len(self.sources()) * self.num_tried) > MAX_PROMPTS:
            raise ValueError(f"this call asks for {num} answers; ask for at most {MAX_PROMPTS} at once")
        return self

    @property
    def token_limit(self) -> int:
        return 0 if self.max_tokens == 0 else super().token_limit

    @property
    def num_tried(self) -> int:
        return max(self.n, self.best_of or 1)

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs if self.logprobs is not None or self.num_tried == self.n else 0

    @property
    def num_prompt_logprobs(self) -> int | None:
        told = [self.prompt_logprobs, self.logprobs if self.echo else None]
        if self.max_tokens == 0 or (self.echo and None in self.echoed()):
            told.append(0)
        return max((num for num in told if num is not None), default=None)

    def sources(self) -> list[dict[str, Any]]:
        """The prompts, each as `generations.start` takes it."""
        if self.prompt is None:
            return [{"inputs": self.inputs}]
        return [
            {"prompt": prompt} if isinstance(prompt, str) else {"token_ids": tuple(prompt)}
            for prompt in prompts_of(self.prompt)
        ]

    def echoed(self) -> list[str | None]:
        """The text of each choice's prompt, None where it is known by its tokens alone, as one that `auto` fills is."""
        if is_auto(self.model):
            return [None] * self.num_tried
        return [source.get("prompt") for source in self.sources() for _ in range(self.num_tried)]


def prompts_of(prompt: Any) -> list[str | list[int]]:
    """The prompts that `prompt` holds. Raises ValueError for what is none."""
    if isinstance(prompt, str) or _is_ids(prompt):
        return [prompt]
    if not isinstance(prompt, list):
        raise ValueError(f"this is {kind_of(prompt)}; give {FORMS}")
    if not prompt:
        raise ValueError(f"this list is empty; give {FORMS}")
    for place, each in enumerate(prompt):
        if not (isinstance(each, str) or _is_id(each) or _is_ids(each)):
            raise ValueError(f"item {place} is {kind_of(each)}, which is no prompt and no token id; give {FORMS}")
    if len(set(map(type, prompt))) > 1:
        raise ValueError(f"the items are of several kinds; give {FORMS}")
    return prompt


def kind_of(value: Any) -> str:
    """What a value of JSON is called."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return "a list of other things than token ids" if value else "an empty list"
    kinds = {str: "a text", int: f"the number {value}", float: f"the number {value}", dict: "an object"}
    return kinds[type(value)]


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_id, value))


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
