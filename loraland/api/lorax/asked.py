"""What LoRAX's addresses take, and TGI's: a finished prompt in `inputs`, and how it is answered in `parameters`.

Left out, a parameter means here what it means there: no sampling, no template, no end but the model's own or the limit
of the site. What would change an answer and cannot be done is refused by name.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Final, Literal, Self

import pydantic
from django.conf import settings
from pydantic import Field, PrivateAttr, field_validator, model_validator

from inference.wire.protocol import Sampling
from loraland import bases
from loraland.api.errors import ApiError
from loraland.api.lorax.adapters import Merged, name_of, name_of_merged
from loraland.api.lorax.formats import Grammar, ResponseFormat
from loraland.api.openai.chat import ChatMessage
from loraland.api.openai.common import MAX_LOGPROBS, MAX_SEED, MAX_STOPS, Within
from loraland.api.openai.constraint import checked
from loraland.api.openai.strict import EMPTY_IS_NONE, MINUS_ONE_IS_NONE, Strict, Text
from loraland.bases import Base
from loraland.catalogue.composition import Composition, tokenizer_for
from loraland.catalogue.models import AdapterVersion

MAX_BEST_OF: Final = 128
MAX_TEMPERATURE: Final = 100

Stop = Annotated[str, Field(max_length=500)]
Alternatives = Annotated[int, Field(ge=1, le=MAX_LOGPROBS)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Parameters(Strict):
    adapter_id: Annotated[str, Field(max_length=1000)] | None = None
    merged_adapters: Annotated[Merged | None, EMPTY_IS_NONE] = None
    adapter_source: str | None = None
    api_token: str | None = None
    """Where LoRAX should fetch the adapter, and with which right: adapters are here already."""

    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    ignore_eos_token: bool = False
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] = ""
    do_sample: bool = False
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE)] | None = None
    top_k: Annotated[Annotated[int, Field(ge=0, le=1_000_000)] | None, MINUS_ONE_IS_NONE] = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[Annotated[int, Field(ge=0, le=MAX_SEED)] | None, MINUS_ONE_IS_NONE] = None
    best_of: Annotated[int, Field(ge=1, le=MAX_BEST_OF)] = 1
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    response_format: Annotated[ResponseFormat | None, EMPTY_IS_NONE] = None
    grammar: Annotated[Grammar | None, EMPTY_IS_NONE] = None
    truncate: Annotated[Annotated[int, Field(ge=1)] | None, EMPTY_IS_NONE] = None
    apply_chat_template: bool = False
    watermark: bool = False
    return_full_text: bool = False
    details: bool = False
    decoder_input_details: bool = False
    return_k_alternatives: Annotated[Alternatives | None, EMPTY_IS_NONE] = None
    top_n_tokens: Annotated[Alternatives | None, EMPTY_IS_NONE] = None
    """TGI's word for `return_k_alternatives`, which it tells in another place."""
    first_token_within: Within = 0.0

    @field_validator("response_format", "grammar")
    @classmethod
    def _can_be_kept(cls, form: ResponseFormat | Grammar | None) -> ResponseFormat | Grammar | None:
        if form and form.constraint:
            checked(form.constraint)
        return form

    @field_validator("watermark")
    @classmethod
    def _no_watermark(cls, watermark: bool) -> bool:
        if watermark:
            raise ValueError("answers are not watermarked here; leave it out or send false")
        return watermark

    @model_validator(mode="after")
    def _agrees(self) -> Parameters:
        if self.adapter_id and self.merged_adapters:
            raise ValueError("adapter_id and merged_adapters both name who answers; give one of them")
        if self.response_format and self.grammar:
            raise ValueError("response_format and grammar both say what an answer looks like; give one of them")
        if self.best_of > 1 and not self.samples:
            raise ValueError("best_of above 1 needs sampling, as all answers would be the same; send do_sample: true")
        if self.best_of > 1 and self.seed is not None:
            raise ValueError("best_of above 1 draws a seed for each answer; leave seed out")
        return self

    @property
    def model(self) -> str:
        """Whom they name, as `composition.named` reads it."""
        return name_of_merged(self.merged_adapters) if self.merged_adapters else name_of(self.adapter_id)

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn. What shapes the draw asks for one as well, as it does in LoRAX and TGI."""
        is_shaped = self.temperature not in (None, 1) or self.top_k or {self.top_p, self.typical_p} - {None, 1}
        return self.temperature != 0 and (self.do_sample or bool(is_shaped))

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(filter(None, [self.stop] if isinstance(self.stop, str) else self.stop))

    @property
    def num_alternatives(self) -> int:
        return max(self.return_k_alternatives or 0, self.top_n_tokens or 0)

    def sampling(self, with_tokens: bool) -> Sampling:
        """How it is answered. Tokens are told where somebody needs them: `with_tokens`, or to find the best or the stop
        string that ended an answer."""
        with_tokens = with_tokens or self.best_of > 1 or bool(self.stops)
        return Sampling(
            temperature=(1.0 if self.temperature is None else float(self.temperature)) if self.samples else 0.0,
            top_k=self.top_k or 0,
            top_p=float(self.top_p or 1),
            typical_p=float(self.typical_p or 1),
            repetition_penalty=float(self.repetition_penalty),
            presence_penalty=float(self.presence_penalty),
            frequency_penalty=float(self.frequency_penalty),
            seed=self.seed,
            stop=self.stops,
            max_tokens=self.max_new_tokens or settings.MAX_NEW_TOKENS,
            ignore_eos=self.ignore_eos_token,
            logprobs=self.num_alternatives if with_tokens else None,
            constraint=form.constraint if (form := self.response_format or self.grammar) else None,
            prompt_logprobs=0 if self.decoder_input_details else None,
            first_token_within=float(self.first_token_within),
        )


class GenerateRequest(Strict):
    inputs: Annotated[Text, Field(min_length=1)]
    parameters: Parameters = Field(default_factory=Parameters)
    stream: bool = False
    _base: Base | None = PrivateAttr(None)
    _version: AdapterVersion | Composition | None = PrivateAttr(None)

    def read_by(self, base: Base, version: AdapterVersion | Composition | None) -> None:
        """Let it be `base` that reads the prompt, with the tokens of `version`."""
        self._base, self._version = base, version

    @property
    def answered_by(self) -> str:
        """The adapter that was named, or the one that was chosen for `auto`."""
        if not bases.is_auto(self.model):
            return self.model
        if self._version is None:
            return self.base.called
        return self._version.adapter.slug if isinstance(self._version, AdapterVersion) else str(self._version)

    @property
    def base(self) -> Base:
        """The one that reads the prompt: the default one until another is told."""
        return self._base or bases.default()

    @model_validator(mode="after")
    def _template_needs_messages(self) -> GenerateRequest:
        if self.parameters.apply_chat_template:
            if self.parameters.truncate:
                raise ValueError("truncate cuts a finished prompt; leave out apply_chat_template or truncate")
            messages_in(self.inputs)
        return self

    n: ClassVar[int] = MAX_BEST_OF
    """All that were tried are told, the best one first."""
    store: ClassVar[bool] = False
    include_usage: ClassVar[bool] = False

    def streamed(self, stream: bool) -> Self:
        """The same for an address that always streams, or never does. Raises `ApiError` for what no stream can tell."""
        if stream:
            _check_stream(self.parameters)
        return self.model_copy(update={"stream": stream})

    @property
    def model(self) -> str:
        return self.parameters.model

    @property
    def num_tried(self) -> int:
        return self.parameters.best_of

    def sampling(self) -> Sampling:
        parameters = self.parameters
        return parameters.sampling(self.stream or parameters.details or parameters.decoder_input_details)

    def sources(self) -> list[dict[str, Any]]:
        """The one prompt, as `generations.start` takes it."""
        if self.parameters.apply_chat_template:
            return [{"messages": [message.to_wire() for message in messages_in(self.inputs)]}]
        if self.parameters.truncate is None:
            return [{"prompt": self.inputs}]
        tokenizer = tokenizer_for(self._version, self.base)
        ids = tokenizer.begin(tokenizer.encode(self.inputs))
        return [{"token_ids": tuple(ids[-self.parameters.truncate :])}]


class OldClientsRequest(GenerateRequest):
    """What the Inference API was sent as well, which is here to have."""

    options: dict[Literal["use_cache", "wait_for_model", "use_gpu"], bool] | None = None


def _check_stream(parameters: Parameters) -> None:
    """Refuse what is known only when an answer has ended."""
    for name, given in {
        "best_of": parameters.best_of > 1,
        "decoder_input_details": parameters.decoder_input_details,
    }.items():
        if given:
            sentence = f"parameters.{name} cannot be told by a stream; ask without one, or leave {name} out."
            raise ApiError(400, "invalid_value", sentence, f"parameters.{name}")


def messages_in(inputs: str) -> list[ChatMessage]:
    """The messages that `inputs` holds as JSON. Raises `ValueError`."""
    sentence = "with apply_chat_template inputs are messages as JSON: a list of objects with role and content"
    try:
        return _MESSAGES.validate_python(json.loads(inputs))
    except ValueError as error:
        raise ValueError(sentence) from error


_MESSAGES: Final = pydantic.TypeAdapter(Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)])
