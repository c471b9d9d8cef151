"""What ``/v1/completions`` takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from loraland.api.openai.common import MAX_LOGPROBS, Common, Text


class Completion(Common):
    prompt: Text | list[Any] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: Literal[1] = 1
    echo: Literal[False] = False

    @field_validator("prompt")
    @classmethod
    def _one_prompt(cls, prompt: Any) -> Any:
        if prompt is None or isinstance(prompt, str):
            return prompt
        if len(prompt) != 1 or not isinstance(prompt[0], str):
            raise ValueError("give one prompt as text, or a list of one text; token ids are not accepted")
        return prompt[0]

    @model_validator(mode="after")
    def _is_whole(self) -> Completion:
        if (self.prompt is None) == (self.inputs is None):
            raise ValueError("give either prompt or inputs")
        return self

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    def source(self) -> dict[str, Any]:
        """What is asked, as `generations.start` takes it."""
        return {"prompt": self.prompt} if self.prompt is not None else {"inputs": self.inputs}
