"""A program's body as JSON, or the sentence that tells why it is none."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from django.http import HttpRequest
from ninja.parser import Parser

from loraland.api.failing import ApiError


class JsonParser(Parser):
    def parse_body(self, request: HttpRequest) -> Any:
        return read_json(request.body)


def read_json(body: bytes) -> Any:
    """The value that `body` writes. Raises `ApiError`."""
    try:
        return json.loads(_text(body), object_pairs_hook=_object, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _refused(f"The body is not JSON: at {where} something else is expected. {_hint(error)}") from error
    except RecursionError as error:
        raise _refused("The body is nested too deep to be read; send it flatter.") from error
    except ValueError as error:
        raise _refused("The body holds a number of more digits than are read; send fewer.") from error


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        sentence = f"The body is not UTF-8: byte {error.start} is no part of a character; send JSON as UTF-8."
        raise _refused(sentence) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of which no name has two different values, as only one of them could be obeyed."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found and found[name] != value:
            raise _refused(f"The body gives {name[:100]!r} twice with different values; give it once.", name[:100])
        found[name] = value
    return found


def _no_number(name: str) -> NoReturn:
    raise _refused(f"The body holds {name}, which is no number of JSON; send a finite number or null.")


def _hint(error: json.JSONDecodeError) -> str:
    start = error.doc.lstrip()[:1]
    if not start:
        return "The body is blank; send an object."
    if start not in "{[":
        return "Send an object in braces, with the header Content-Type: application/json."
    return "Names and texts stand in double quotes, and no comma is left over."


def _refused(sentence: str, param: str | None = None) -> ApiError:
    return ApiError(400, "invalid_json", sentence, param)
