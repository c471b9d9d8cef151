"""The JSON files of a model directory, each an object."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference.reading import said


def read_object(path: Path, refusal: Callable[[str], Exception]) -> dict[str, Any]:
    """The object in the file at `path`, an empty one where there is no file. Raises the `refusal` of a sentence."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise refusal(f"{path} is not JSON: {said(error)}; fetch it again") from error
    if not isinstance(found, dict):
        raise refusal(f"{path} holds no object but a {type(found).__name__}; fetch it again")
    return found
