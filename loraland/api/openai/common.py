"""What both kinds of completion take: OpenAI's parameters as far as they mean something here, and a few of our own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from django.conf import settings
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from inference.wire.protocol import Constraint, Sampling
from loraland.api.openai import neutral
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
from loraland.api.openai.strict import FALSE_IS_NONE, MINUS_ONE_IS_NONE, Whole
from loraland.api.openai.strict import Strict as Strict
from loraland.api.openai.strict import Text as Text

MAX_SEED = 2**63 - 1
MAX_LOGPROBS = 20
MAX_STOPS = 16
OPEN = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty")
"""Parameters for which the base's own may stand where they are left out (`DEFAULT_SAMPLING`)."""
MAX_CHOICES = 128
"""How many answers to one prompt a call may ask for."""


def _without_empty(value: Any) -> Any:
    """Stop strings without the empty ones, which stop nothing."""
    if isinstance(value, list):
        return [item for item in value if item not in ("", None)]
    return None if value == "" else value


StopString = Annotated[str, Field(min_length=1, max_length=500)]
StopStrings = Annotated[
    StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None, BeforeValidator(_without_empty)
]
MaxTokens = Annotated[Annotated[Whole, Field(ge=1)] | None, MINUS_ONE_IS_NONE]

Within = Annotated[float, Field(ge=0, le=3600)]
"""Seconds in which a first token is wanted, or no answer; 0 waits."""


def unset_of(body: Strict) -> tuple[str, ...]:
    """What `body` left out of `OPEN`."""
    return tuple(name for name in OPEN if name not in body.model_fields_set)


class StreamOptions(Strict):
    RULES: ClassVar[Mapping[str, neutral.Rule]] = {"include_obfuscation": neutral.OFF}

    include_usage: bool = False
    continuous_usage_stats: bool = False
    """Usage in every chunk, as far as the answer has come."""


class Common(Strict):
    """The parameters that both kinds of completion take. Left out, `temperature` is 0, the likeliest answer, or
    the base's own where the workers take that; `max_tokens` is what the site and the context leave."""

    RULES: ClassVar[Mapping[str, neutral.Rule]] = neutral.REQUEST

    model: Annotated[str, Field(max_length=1000)]
    inputs: dict[str, Text] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens = None
    min_tokens: Annotated[Whole, Field(ge=0)] = 0
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[Whole, Field(ge=-1, le=1_000_000)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    typical_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    seed: Annotated[Annotated[Whole, Field(ge=0, le=MAX_SEED)] | None, MINUS_ONE_IS_NONE] = None
    stop: StopStrings = None
    ignore_eos: bool = False
    n: Annotated[Whole, Field(ge=1, le=MAX_CHOICES)] = 1
    response_format: ResponseFormat = None
    structured_outputs: StructuredOutputs = None
    guided_json: GuidedJson = None
    guided_regex: GuidedRegex = None
    guided_choice: GuidedChoice = None
    guided_grammar: GuidedGrammar = None
    logit_bias: LogitBias = ()
    prompt_logprobs: Annotated[Annotated[Whole, Field(ge=0, le=MAX_LOGPROBS)] | None, FALSE_IS_NONE] = None
    first_token_within: Within = 0.0
    store: bool = False
    """Whether the caller may come back for the answer: then a connection that ends does not stop it."""

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
    def every_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.continuous_usage_stats

    @property
    def token_limit(self) -> int:
        return self.max_tokens or settings.MAX_NEW_TOKENS

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
            typical_p=float(self.typical_p),
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
            first_token_within=float(self.first_token_within),
            unset=unset_of(self),
        )
