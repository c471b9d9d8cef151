"""The base's own files as far as the site reads them: its folder, and the tokenizer of the workers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings

from inference.model.added_tokens import read_added
from inference.model.architecture import read_architecture
from loraland.bases import Base
from loraland.refusal import Refused

if TYPE_CHECKING:
    from inference.model.tokenizer import Tokenizer


def base_folder(base: Base) -> Path | None:
    """The folder that the workers of `base` read too; None while it is not on this machine."""
    given = [Path(base.model).expanduser()] if base.model else []
    folders = (*given, settings.MODELS_DIR / base.name)
    return next((folder.resolve() for folder in folders if (folder / "config.json").is_file()), None)


def hidden_size(base: Base) -> int | None:
    """How many numbers `base` makes of a token; None while its files are not on this machine."""
    folder = base_folder(base)
    size = json.loads((folder / "config.json").read_text("utf-8")).get("hidden_size") if folder else None
    return size if isinstance(size, int) else None


def vocabulary_size(folder: Path) -> int:
    """How many rows the table of the base in `folder` has. Raises `ArchitectureError`."""
    return read_architecture(folder / "config.json").vocab_size


def tokenizer_of(base: Base, config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer by which an adapter of that `config` is read: that of `base`, with tokens of its own. Raises
    `Refused`."""
    tokens, _ = read_added(config)
    tokenizer = base_tokenizer(base)
    return tokenizer.extended(tokens) if tokens else tokenizer


def base_tokenizer(base: Base) -> Tokenizer:
    """The tokenizer of `base`, loaded when it is first asked for. Raises `Refused` where its file is not here."""
    from inference.model.tokenizer_files import has_tokenizer

    folder = base_folder(base)
    if folder is None or not has_tokenizer(folder):
        sentence = f"The tokenizer of {base.name} is not on the site's machine; let it share VAR_DIR/models."
        raise Refused("unavailable", sentence)
    return _load(folder)


@cache
def _load(folder: Path) -> Tokenizer:
    from inference.model.tokenizer import Tokenizer  # a site that nobody asks need not hold it

    return Tokenizer(folder)
