"""An adapter_config.json between its bytes and its object, read alike by the site and by the worker.

JSON may come in UTF-8, UTF-16 or UTF-32, with a byte order mark or without; what is written is UTF-8 without one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from inference.adapters.storable import is_storable
from inference.reading import reading

NAME: Final = "adapter_config.json"
MAX_CONFIG_BYTES: Final = 1024 * 1024


class ConfigRefused(ValueError):
    """An adapter_config.json that is no object of plain values; the message is a sentence."""


def read_config(path: Path) -> dict[str, Any]:
    """The object in the file at `path`, of which no more is read than may be. Raises `ConfigRefused` and OSError."""
    with path.open("rb") as file:
        return parse_config(file.read(MAX_CONFIG_BYTES + 1))


def parse_config(raw: bytes) -> dict[str, Any]:
    """The object in the bytes of a file. Raises `ConfigRefused`."""
    with reading(NAME, ConfigRefused):
        if len(raw) > MAX_CONFIG_BYTES:
            raise ConfigRefused(f"{NAME} is larger than {MAX_CONFIG_BYTES // 1024} KB; it should be a few lines.")
        config = _object(raw)
        if not isinstance(config, dict):
            raise ConfigRefused(f"{NAME} is not a JSON object; upload the file that PEFT saved.")
        if not is_storable(config):
            raise ConfigRefused(f"{NAME} holds characters or numbers that cannot be kept; upload PEFT's own file.")
        return config


def config_bytes(config: dict[str, Any]) -> bytes:
    """`config` as it is kept: the bytes of a file that `parse_config` reads as the same object."""
    return (json.dumps(config, indent=2) + "\n").encode("ascii")


def show(value: Any) -> str:
    """A value of a config as its owner wrote it, cut short."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _object(raw: bytes) -> Any:
    try:
        return json.loads(raw, object_pairs_hook=_unique, parse_constant=_no_constant)
    except ConfigRefused:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigRefused(f"{NAME} is not JSON ({str(error)[:200]}); upload the file that PEFT saved.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ConfigRefused(f"{NAME} names a key twice in one object; it could be read in two ways.")
    return entries


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")
