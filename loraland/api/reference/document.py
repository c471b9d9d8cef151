"""The OpenAPI document of all that programs may ask: the part of /v1 that is generated as it stands, and the addresses
beside it from the models that read their bodies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from django.http import HttpRequest, JsonResponse
from pydantic import BaseModel

from loraland.api.anthropic.asked import Counted, MessageRequest
from loraland.api.loading import Load, Unload
from loraland.api.lorax.asked import GenerateRequest
from loraland.api.tokenizing import Detokenize, Tokenize
from loraland.api.v1 import api

_COMPONENT: Final = "#/components/schemas/{model}"


@dataclass(frozen=True)
class Address:
    """One that is read outside /v1's own routes. Without a `body` it is a GET."""

    path: str
    about: str
    body: type[BaseModel] | None = None
    takes_model: bool = False
    """Whether it tells of the base of the model that a parameter names."""


ADDRESSES: Final = (
    Address("/v1/messages", "Anthropic: the next message of a conversation", MessageRequest),
    Address("/v1/messages/count_tokens", "The tokens of a conversation", Counted),
    Address("/v1/load_lora_adapter", "Load an adapter, or a new version of one, by a key that may", Load),
    Address("/v1/unload_lora_adapter", "Withdraw an adapter, by a key that may", Unload),
    Address("/generate", "LoRAX and TGI: an answer to a finished prompt", GenerateRequest),
    Address("/generate_stream", "The same, streamed a token an event", GenerateRequest),
    Address("/invocations", "The same, as SageMaker calls it", GenerateRequest),
    Address("/", "The same: whole in a list, or streamed", GenerateRequest),
    Address("/tokenize", "The tokens of a text or of a chat", Tokenize),
    Address("/detokenize", "The text of tokens", Detokenize),
    Address("/tokenizer_info", "The tokenizer and its chat template", takes_model=True),
    Address("/info", "The base, its limits and this version", takes_model=True),
    Address("/version", "This version"),
    Address("/health", "Whether answers can be had"),
    Address("/ping", "The same"),
)


def openapi(request: HttpRequest) -> JsonResponse:
    return JsonResponse(document())


def document() -> dict[str, Any]:
    """The whole document, as OpenAPI 3.1 has it."""
    found = dict(api.get_openapi_schema())
    beside = dict(_paths())
    components = {name: schema for address in ADDRESSES for name, schema in _components(address)}
    found["paths"] = {**found["paths"], **beside}
    known = found.get("components", {})
    found["components"] = {**known, "schemas": {**components, **known.get("schemas", {})}}
    return found


def _paths() -> Iterator[tuple[str, dict[str, Any]]]:
    for address in ADDRESSES:
        told: dict[str, Any] = {"summary": address.about, "responses": {"200": {"description": "OK"}}}
        if address.body is not None:
            schema = {"$ref": _COMPONENT.format(model=address.body.__name__)}
            told["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        if address.takes_model:
            told["parameters"] = [{"name": "model", "in": "query", "schema": {"type": "string"}}]
        yield address.path, {"get" if address.body is None else "post": told}


def _components(address: Address) -> Iterator[tuple[str, Any]]:
    if address.body is not None:
        schema = address.body.model_json_schema(ref_template=_COMPONENT)
        yield from schema.pop("$defs", {}).items()
        yield address.body.__name__, schema
