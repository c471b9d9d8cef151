"""What ``/v1/completions`` takes."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from loraland.api.openai.common import MAX_CHOICES, MAX_LOGPROBS, Common, Text

MAX_PROMPTS: Final = 2048
"""How many prompts a call may hold, and how many answers it may ask for in all."""


class Completion(Common):
    prompt: Text | list[Any] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    echo: Literal[False] = False

    @field_validator("prompt")
    @classmethod
    def _prompts(cls, prompt: Any) -> Any:
        if prompt is None or isinstance(prompt, str):
            return prompt
        if not prompt or not all(isinstance(each, str) for each in prompt):
            raise ValueError("give a prompt as text, or a list of texts; token ids are not accepted")
        if len(prompt) > MAX_PROMPTS:
            raise ValueError(f"these are {len(prompt)} prompts; give at most {MAX_PROMPTS} in one call")
        return prompt

    @model_validator(mode="after")
    def _is_whole(self) -> Completion:
        if (self.prompt is None) == (self.inputs is None):
            raise ValueError("give either prompt or inputs")
        return self

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
    def _are_few(self) -> Completion:
        if (num := len(self.sources()) * self.num_tried) > MAX_PROMPTS:
            raise ValueError(f"this call asks for {num} answers; ask for at most {MAX_PROMPTS} at once")
        return self

    @property
    def num_tried(self) -> int:
        return max(self.n, self.best_of or 1)

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs if self.logprobs is not None or self.num_tried == self.n else 0

    def sources(self) -> list[dict[str, Any]]:
        """The prompts, each as `generations.start` takes it."""
        if self.prompt is None:
            return [{"inputs": self.inputs}]
        return [{"prompt": prompt} for prompt in ([self.prompt] if isinstance(self.prompt, str) else self.prompt)]
