"""What ``/v1/embeddings`` takes and gives: for each text the mean of the model's last hidden states, of length 1.

It is a weak embedding: a small base that was made to write tells texts apart poorly. Measure before you rely on it.
"""

from __future__ import annotations

import base64
import re
import sys
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import sqrt
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator

from inference.wire.protocol import Delta, Prompted, Sampling
from loraland.api.errors import ApiError
from loraland.api.openai.bodies import conclusion
from loraland.api.openai.strict import Strict
from loraland.api.shape import DONE, Answer, Body, Head, Usage
from loraland.base_files import hidden_size
from loraland.bases import Base
from loraland.catalogue.composition import Composition
from loraland.catalogue.models import AdapterVersion
from loraland.refusal import Refused

MAX_INPUTS: Final = 2048
_SHAPES: Final = "a text, a list of texts, a list of token ids, or a list of such lists"
_SAMPLING: Final = Sampling()


class Embedding(Strict):
    """The parameters of a call. It is answered like one for several answers that are never streamed nor kept."""

    model: Annotated[str, Field(min_length=1, max_length=1000)]
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None

    stream = store = include_usage = property(lambda self: False)
    n = num_tried = property(lambda self: 1)

    @field_validator("input")
    @classmethod
    def _inputs(cls, given: Any) -> Any:
        inputs = _listed(given)
        if not inputs:
            raise ValueError(f"there is nothing in the list; give {_SHAPES}")
        if len(inputs) > MAX_INPUTS:
            raise ValueError(f"these are {len(inputs)} inputs; give at most {MAX_INPUTS} in one call")
        are_alike = all(isinstance(each, str) for each in inputs) or all(map(_are_ids, inputs))
        if not are_alike:
            raise ValueError(f"give {_SHAPES}; token ids are whole numbers from 0")
        if [] in inputs:
            raise ValueError(f"the list at {inputs.index([])} has no token; send at least one")
        return inputs

    def read_by(self, base: Base, version: AdapterVersion | Composition | None) -> None:
        """Refuse other dimensions than `base` has, where its files are here to tell; an embedding tells otherwise."""
        _check_width(self.dimensions, hidden_size(base) or self.dimensions)

    def sources(self) -> list[dict[str, Any]]:
        """The inputs, each as `generations.start` takes it."""
        return [{"prompt": each} if isinstance(each, str) else {"token_ids": tuple(each)} for each in self.input]

    def sampling(self) -> Sampling:
        return _SAMPLING


class Embeddings:
    """A ``list`` of embeddings. Nothing of it is streamed."""

    done = DONE
    names_events = False

    def __init__(self, asked: Embedding) -> None:
        self._format, self._dimensions = asked.encoding_format, asked.dimensions

    def whole(self, head: Head, answers: Sequence[Answer], usage: Usage) -> Body:
        for answer in answers:
            if not answer.vector:
                raise ApiError(503, "unavailable", "An input was stopped before it was read; send it again.")
            _check_width(self._dimensions, len(answer.vector))
        return {
            "object": "list",
            "data": [self._item(answer) for answer in answers],
            "model": head.model,
            "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens},
            "loraland": conclusion(head, answers)["loraland"],
        }

    def opening(self, head: Head, index: int) -> list[Body]:
        return []

    def prompted(self, head: Head, index: int, prompted: Prompted) -> list[Body]:
        return []

    def chunk(self, head: Head, index: int, delta: Delta, at: int) -> list[Body]:
        return []

    def closing(self, head: Head, answer: Answer) -> list[Body]:
        return []

    def tally(self, head: Head, usage: Usage) -> list[Body]:
        return []

    def failure(self, error: ApiError) -> Body:
        return error.body()

    def _item(self, answer: Answer) -> Body:
        numbers = _of_length_one(answer.vector)
        told = numbers.tolist() if self._format == "float" else base64.b64encode(_little_endian(numbers)).decode()
        return {"object": "embedding", "index": answer.index, "embedding": told}


@contextmanager
def told_of_input() -> Iterator[None]:
    """Refuse what is wrong with a text by the name that it has in a call."""
    try:
        yield
    except Refused as refusal:
        name, *rest = (refusal.param or "").split(".")
        if name in ("prompt", "token_ids"):
            refusal.param = ".".join(["input", *rest])
            refusal.sentence = re.sub(r"^(The prompt|Prompt|Token_ids)", _called, refusal.sentence)
        raise


def _called(found: re.Match[str]) -> str:
    return "The input" if found[0].startswith("The") else "Input"


def _listed(given: Any) -> list[Any]:
    """The inputs of a call, one by one: a text is one, and so is a list of token ids."""
    if not isinstance(given, list):
        return [given]
    return [given] if given and _are_ids(given) else given


def _are_ids(given: Any) -> bool:
    return isinstance(given, list) and all(type(each) is int and 0 <= each < 2**31 for each in given)


def _of_length_one(vector: Sequence[float]) -> array[float]:
    """`vector` in float32, as OpenAI has it; one that is all zeros stays so."""
    length = sqrt(sum(number * number for number in vector)) or 1.0
    return array("f", (number / length for number in vector))


def _little_endian(numbers: array[float]) -> bytes:
    if sys.byteorder == "big":
        numbers = array("f", numbers)
        numbers.byteswap()
    return numbers.tobytes()


def _check_width(asked: int | None, width: int | None) -> None:
    if asked not in (None, width):
        sentence = (
            f"Embeddings of this base have {width} dimensions and are not cut; leave dimensions out, or give {width}."
        )
        raise ApiError(400, "invalid_value", sentence, param="dimensions")
