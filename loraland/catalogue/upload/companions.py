"""A chat template and tokens that lie beside an adapter: compared with the base's own, and never used or run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from inference.model.tokenizer_files import TokenizerError, read_tokenizer
from loraland.base_files import base_folder
from loraland.bases import Base

TEMPLATE: Final = "chat_template.jinja"
SETTINGS: Final = "tokenizer_config.json"
ADDED: Final = "added_tokens.json"
COMPANIONS: Final = (TEMPLATE, SETTINGS, ADDED)
MAX_BYTES: Final = 1024 * 1024
MOST_NAMED: Final = 10


def companions_in(directory: Path) -> dict[str, bytes]:
    """Those that lie in `directory` and are no larger than such files are. Raises OSError."""
    paths = [directory / name for name in COMPANIONS]
    return {path.name: path.read_bytes() for path in paths if path.is_file() and path.stat().st_size <= MAX_BYTES}


def remarks_on(companions: Mapping[str, bytes], base: Base) -> list[str]:
    """What an owner should know of `companions`; nothing where they equal the base's, or the base is not here."""
    if not companions or (folder := base_folder(base)) is None:
        return []
    own = companions_in(folder)
    return [*_on_template(companions, own), *_on_tokens(companions, own, folder)]


def _on_template(companions: Mapping[str, bytes], own: Mapping[str, bytes]) -> list[str]:
    where, found = _template(companions)
    if not found or found.strip() == _template(own)[1].strip():
        return []
    return [
        f"The chat template beside the adapter ({where}) is another than the base's, and is not used: a conversation "
        "is written with the base's. If it was trained on another text, give that as a prompt with {field} where an "
        "input goes: --template FILE of import_adapter, card.toml beside the adapter, or “Template” in the admin."
    ]


def _on_tokens(companions: Mapping[str, bytes], own: Mapping[str, bytes], folder: Path) -> list[str]:
    added = _tokens(companions)
    if not added or not (known := _vocabulary(folder)):
        return []
    strange = [token for token in added if token not in known | set(_tokens(own))]
    if not strange:
        return []
    named = ", ".join(repr(token[:60]) for token in strange[:MOST_NAMED])
    more = f" and {len(strange) - MOST_NAMED} more" if len(strange) > MOST_NAMED else ""
    return [
        f"The tokenizer beside the adapter has tokens that the base does not: {named}{more}. They are not used: such "
        "text is read as several tokens of the base. Train on the base's own tokens if the adapter needs them."
    ]


def _template(files: Mapping[str, bytes]) -> tuple[str, str]:
    """Where a template lies among `files`, and the template; the file of its own comes before the settings."""
    if TEMPLATE in files:
        return TEMPLATE, files[TEMPLATE].decode("utf-8", "replace").replace("\r\n", "\n")
    found = _object(files, SETTINGS).get("chat_template")
    if isinstance(found, list):
        entries = [each for each in found if isinstance(each, dict)]
        found = next((each.get("template") for each in entries if each.get("name") == "default"), None)
    return f"chat_template in {SETTINGS}", found if isinstance(found, str) else ""


def _tokens(files: Mapping[str, bytes]) -> list[str]:
    decoder = _object(files, SETTINGS).get("added_tokens_decoder")
    entries = decoder.values() if isinstance(decoder, dict) else ()
    contents = [entry.get("content") for entry in entries if isinstance(entry, dict)]
    found = [*_object(files, ADDED), *(content for content in contents if isinstance(content, str))]
    return list(dict.fromkeys(found))


def _vocabulary(folder: Path) -> set[str]:
    """The tokens of the base in `folder`; empty where nobody can read them."""
    try:
        found, _ = read_tokenizer(folder)
    except (TokenizerError, ValueError):
        return set()
    model, added = found.get("model"), found.get("added_tokens")
    entries = model.get("vocab") if isinstance(model, dict) else None
    words = (entry if isinstance(entry, str) else entry[0] for entry in entries or ())
    return {*words, *(entry["content"] for entry in added or ())}


def _object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        found = json.loads(files.get(name, b"{}").decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
