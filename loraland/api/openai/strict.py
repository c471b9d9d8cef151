"""A body of which nothing is ignored silently: what is not declared is refused by name, or asks for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator
from pydantic import ModelWrapValidatorHandler as Handler
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from loraland.api.openai.neutral import Rule, sift, way_out
from loraland.api.wrong_values import shown

Text = Annotated[str, Field(max_length=10_000_000)]


def _whole(value: Any) -> Any:
    """A number such as 3.0 as the whole number that it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _unless_negative_one(value: Any) -> Any:
    return None if value == -1 and not isinstance(value, bool) else value


Whole = Annotated[int, BeforeValidator(_whole)]
MINUS_ONE_IS_NONE = BeforeValidator(_unless_negative_one)
"""Other servers write -1 for a number that is not given."""


def _unless_false(value: Any) -> Any:
    return None if value is False else value


FALSE_IS_NONE = BeforeValidator(_unless_false)


def _unless_empty(value: Any) -> Any:
    return value if value or isinstance(value, bool) else None


EMPTY_IS_NONE = BeforeValidator(_unless_empty)
"""For an object that is empty, or a number of things that is 0."""


def _with_rules(schema: dict[str, Any], model: type[Strict]) -> None:
    """Tell in the schema what passes though it is not declared."""
    properties = schema.setdefault("properties", {})
    for name, rule in model.RULES.items():
        about = "Ignored." if rule.is_told else f"Only as {rule.example}." if rule.example else ""
        if about and name not in properties:
            properties[name] = {"description": about}


class Strict(BaseModel):
    """null stands for "not given". What `RULES` lets pass is taken out; `ignored` tells it where it was a label."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=_with_rules)

    RULES: ClassVar[Mapping[str, Rule]] = {}
    _ignored: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="wrap")
    @classmethod
    def _sifted(cls, data: Any, handler: Handler[Any]) -> Any:
        if not isinstance(data, dict):
            return handler(data)
        known, ignored, refused = sift(data, cls.RULES, cls.model_fields)
        if refused:
            raise ValidationError.from_exception_data(cls.__name__, [_refusal(cls, name, data) for name in refused])
        body = handler({key: value for key, value in known.items() if value is not None})
        body._ignored = ignored
        return body

    @property
    def ignored(self) -> tuple[str, ...]:
        """The parameters that were given and change nothing."""
        return self._ignored


def _refusal(cls: type[Strict], name: str, data: dict[str, Any]) -> InitErrorDetails:
    sentence = f"is {shown(data[name])}, which is not offered here; {way_out(cls.RULES[name])}."
    return InitErrorDetails(
        type=PydanticCustomError("not_offered", "{sentence}", {"sentence": sentence}), loc=(name,), input=data[name]
    )
