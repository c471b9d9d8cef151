"""Which addresses are for programs, and in which shape each is told what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from django.http import HttpResponse

from loraland.api import errors
from loraland.api.anthropic import errors as anthropic
from loraland.api.lorax import errors as lorax

Shape = Callable[[Exception, str], HttpResponse]
"""How an exception is told to who asked at an address."""

SMALL: Final = ("health", "ping", "version", "info", "tokenize", "detokenize", "tokenizer_info")
"""What servers of language models tell at their root; here under ``/v1`` too."""
GENERATION: Final = ("generate", "generate_stream", "invocations")
"""Where LoRAX and TGI are asked for an answer, beside their root."""
NOT_OFFERED: Final = ("embed", "classify", "classify_batch")
"""What LoRAX offers for models that do not write text."""
MESSAGES: Final = "/v1/messages/"
"""Where Anthropic's are, and what is below."""
ROOT: Final = "/"
"""The page of the catalogue for who reads it, LoRAX's own address for who posts to it."""
POSTED: Final = ("POST", "OPTIONS")


def shape_for(method: str, path: str) -> Shape | None:
    """In which shape a program is told what went wrong at `path`; None where people ask."""
    if f"{path}/".startswith(MESSAGES):
        return anthropic.told
    if path[1:] in GENERATION + NOT_OFFERED or (path == ROOT and method in POSTED):
        return lorax.told
    return errors.told if f"{path}/".startswith(errors.PATH) or path[1:] in SMALL else None
