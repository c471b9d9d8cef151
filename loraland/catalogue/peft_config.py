"""The adapter_config.json of an upload as this site examines it; the rules are the worker's (`inference`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings

from inference.adapters import config_file as adapter_json
from inference.adapters.config import LoraConfig, check_config
from inference.config import base_name
from inference.reading import reading


def read_config(path: Path) -> tuple[dict[str, Any], LoraConfig | None, list[str]]:
    """The object in the adapter_config.json at `path`, its meaning, and every reason to refuse it in a sentence.

    The object is empty when the file cannot be read as one; the meaning is None when its numbers make no sense.
    Raises OSError.
    """
    try:
        with reading(adapter_json.NAME, adapter_json.ConfigRefused):
            config = adapter_json.read_config(path)
            return config, *check_config(config, settings.MAX_RANK)
    except adapter_json.ConfigRefused as error:
        return {}, None, [str(error)]


def named_base(config: dict[str, Any]) -> str:
    """The last part of the base model's name in `config`: advisory, because the shapes decide."""
    name = config.get("base_model_name_or_path")
    return base_name(name)[:200] if isinstance(name, str) else ""
