"""The program that fills chat templates: a JSON object a line comes in, and one goes out.

A template is a program of whoever made the base, and may run for ever or fill the memory in one step that nothing in
its own process could interrupt. So it has this process: the kernel ends it after `SECONDS` of the processor and gives
it no more than `MEMORY` bytes, and what it makes is counted as it comes. It imports nothing but Jinja.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

SECONDS: Final = 2
"""Of the processor, for one conversation; the kernel counts whole ones, so that a template may have one more."""
MEMORY: Final = 512 * 1024**2
CHARS: Final = 16_000_000
"""The longest text; a conversation of a million tokens has a fourth of it."""


class Generation(Extension):
    """``{% generation %}`` marks what an assistant said, for trainings; what it holds is written like all else."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Variables(Namespace):
    """A namespace that takes no name by which Python's own insides are reached."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *rest = args
        values = dict(*rest, **values)
        for name in values:
            _check(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check(name)
        super().__setitem__(name, value)


def render(source: str, values: dict[str, Any]) -> str:
    """The template `source` filled with `values`. Raises what it raises, and `TemplateError` for too long a text."""
    pieces, length = [], 0
    for piece in _compiled(source).generate(**values):
        pieces.append(piece)
        length += len(piece)
        if length > CHARS:
            raise TemplateError(f"it writes more than {CHARS} characters")
    return "".join(pieces)


def answers(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """For each line with a `source` and its `values` the `text`, or as `error` why there is none."""
    for line in lines:
        _give_time()
        try:
            yield {"text": render(**json.loads(line))}
        except MemoryError:
            yield {"error": f"it takes more than {MEMORY // 1024**2} MB of memory"}
        except RecursionError:
            yield {"error": "it calls itself without end"}
        except TemplateError as error:
            yield {"error": str(error) or type(error).__name__}
        except Exception as error:
            yield {"error": f"{type(error).__name__}: {error}"}


@lru_cache(maxsize=16)
def _compiled(source: str) -> Template:
    return _ENVIRONMENT.from_string(source)


def _environment() -> ImmutableSandboxedEnvironment:
    extensions = ["jinja2.ext.loopcontrols", Generation]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _to_json  # Jinja's own writes for HTML
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.globals["namespace"] = Variables
    environment.globals["dict"] = lambda *pairs, **values: dict(*pairs, **values)
    return environment


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False, **style: Any) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, **style)


def _refuse(sentence: str) -> None:
    raise TemplateError(sentence)


def _check(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot have the name {name!r}")


_ENVIRONMENT: Final = _environment()


def _give_time() -> None:
    """Let the kernel end this process after `SECONDS` more of the processor."""
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + SECONDS, most))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a worker that is told to end ends this by closing its pipe
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # not every system bounds addresses
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for answer in answers(iter(sys.stdin.readline, "")):
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
