"""The form that an answer must have, in LoRAX's words (`response_format`) and in TGI's (`grammar`)."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from inference.wire.protocol import Constraint
from loraland.api.openai.strict import Strict, Text

Schema = dict[str, Any]


class ResponseFormat(Strict):
    """LoRAX's: a JSON object, of a schema where one is given. ``text`` asks for nothing."""

    type: Literal["json_object", "text"]
    schema_: Annotated[Schema | None, Field(alias="schema")] = None

    @property
    def constraint(self) -> Constraint | None:
        if self.type == "text":
            return None
        return _of_schema(self.schema_) if self.schema_ else Constraint("json_object")


class NamedSchema(Strict):
    name: str | None = None
    schema_: Annotated[Schema, Field(alias="schema")]


class Json(Strict):
    type: Literal["json"]
    value: Schema | Text
    """A schema, as an object or as its text."""

    @property
    def constraint(self) -> Constraint:
        return Constraint("json_schema", self.value) if isinstance(self.value, str) else _of_schema(self.value)


class JsonSchema(Strict):
    type: Literal["json_schema"]
    value: NamedSchema

    @property
    def constraint(self) -> Constraint:
        return _of_schema(self.value.schema_)


class Regex(Strict):
    type: Literal["regex"]
    value: Annotated[Text, Field(min_length=1)]

    @property
    def constraint(self) -> Constraint:
        return Constraint("regex", self.value)


Grammar = Annotated[Json | JsonSchema | Regex, Field(discriminator="type")]


def _of_schema(schema: Schema) -> Constraint:
    return Constraint("json_schema", json.dumps(schema, ensure_ascii=False))
