"""What both kinds of completion take: OpenAI's parameters as far as they mean something here, and a few of our own.

Nothing is ignored silently: what is not listed is refused by name, and null stands for "not given".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from inference.wire.protocol import Constraint, Sampling
from loraland.api.openai.constraint import (
    GuidedChoice,
    GuidedGrammar,
    GuidedJson,
    GuidedRegex,
    LogitBias,
    ResponseFormat,
    StructuredOutputs,
    the_one,
)

MAX_SEED = 2**63 - 1
MAX_LOGPROBS = 20
DEFAULT_MAX_TOKENS = 256
MAX_STOPS = 16
MAX_CHOICES = 128
"""How many answers to one prompt a call may ask for."""

Text = Annotated[str, Field(max_length=10_000_000)]
StopString = Annotated[str, Field(min_length=1, max_length=500)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Common(Strict):
    """The parameters that both kinds of completion take. Left out, `temperature` is 0: the likeliest answer."""

    model: Annotated[str, Field(max_length=1000)]
    inputs: dict[str, Text] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    ignore_eos: bool = False
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    response_format: ResponseFormat = None
    structured_outputs: StructuredOutputs = None
    guided_json: GuidedJson = None
    guided_regex: GuidedRegex = None
    guided_choice: GuidedChoice = None
    guided_grammar: GuidedGrammar = None
    logit_bias: LogitBias = ()
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    store: bool = False
    """Whether the caller may come back for the answer: then a connection that ends does not stop it."""
    user: str | None = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Common:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed with stream: true")
        return self

    @model_validator(mode="after")
    def _one_constraint(self) -> Common:
        self.constraint()
        return self

    def constraint(self) -> Constraint | None:
        """What the answer must look like, if anything is asked for."""
        return the_one(
            response_format=self.response_format,
            structured_outputs=self.structured_outputs,
            guided_json=self.guided_json,
            guided_regex=self.guided_regex,
            guided_choice=self.guided_choice,
            guided_grammar=self.guided_grammar,
        )

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def token_limit(self) -> int:
        return self.max_tokens or DEFAULT_MAX_TOKENS

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives to report beside each token; None reports no log-probabilities at all."""
        return None

    @field_validator("inputs", mode="before")
    @classmethod
    def _fill_one_prompt(cls, inputs: Any) -> Any:
        if isinstance(inputs, list):
            raise ValueError("these are the fields of one prompt, as an object; send a call for each prompt")
        return inputs

    @field_validator("prompt_logprobs")
    @classmethod
    def _told_at_once(cls, num: int | None, info: ValidationInfo) -> int | None:
        if num is not None and info.data.get("stream"):
            raise ValueError("what the model makes of the prompt is told in a whole answer; leave out stream")
        return num

    @property
    def num_prompt_logprobs(self) -> int | None:
        """How many alternatives the workers tell beside each token of the prompt; None tells nothing of it."""
        return self.prompt_logprobs

    @property
    def num_tried(self) -> int:
        """How many choices answer each prompt, of which the best `n` are told."""
        return self.n

    def sampling(self) -> Sampling:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            temperature=float(self.temperature),
            top_k=max(self.top_k, 0),
            top_p=float(self.top_p),
            min_p=float(self.min_p),
            repetition_penalty=float(self.repetition_penalty),
            presence_penalty=float(self.presence_penalty),
            frequency_penalty=float(self.frequency_penalty),
            seed=self.seed,
            stop=stop,
            max_tokens=self.token_limit,
            min_tokens=self.min_tokens,
            ignore_eos=self.ignore_eos,
            logprobs=self.num_logprobs,
            prompt_logprobs=self.num_prompt_logprobs,
            logit_bias=self.logit_bias,
            constraint=self.constraint(),
        )
