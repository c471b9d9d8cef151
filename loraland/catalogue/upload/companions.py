"""A chat template and a tokenizer that lie beside an adapter: compared with the base's own. A template is never used or
run; tokens of its own, of which the base's table has a row, go into the adapter's config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from inference.model.added_tokens import KEY, MOST
from loraland.base_files import base_folder
from loraland.catalogue import store
from loraland.catalogue.upload.bases import config_in, likely_base
from loraland.catalogue.upload.own_tokens import ADDED, FLAGS, SETTINGS, TOKENIZER, Tokens, named, object_in, own_tokens

TEMPLATE: Final = "chat_template.jinja"
COMPANIONS: Final = {TEMPLATE: 2**20, SETTINGS: 2**20, ADDED: 2**20, TOKENIZER: 40 * 2**20}
"""Their names, and the bytes that each has at most."""


def companions_in(directory: Path, names: Iterable[str] = COMPANIONS) -> dict[str, bytes]:
    """Those of `names` that lie in `directory` and are no larger than such files are. Raises OSError."""
    paths = {directory / name: COMPANIONS[name] for name in names}
    found = {path: most for path, most in paths.items() if path.is_file()}
    return {path.name: path.read_bytes() for path, most in found.items() if path.stat().st_size <= most}


def taken(companions: Mapping[str, bytes], config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """An adapter's `config` with the tokens of its own tokenizer, and what its owner should know; nothing where they
    equal the base's, or the base is not here. Raises OSError."""
    if not companions or (folder := base_folder(likely_base(config))) is None:
        return config, []
    within, flagged, beyond = own_tokens(companions, folder)
    if within and config and not config.get(KEY):
        config = config | {KEY: [token.entry() for token in within]}
    remarks = _on_tokens(within, flagged, beyond)
    return config, [*_on_template(companions, companions_in(folder, (TEMPLATE, SETTINGS))), *remarks]


def take(companions: Mapping[str, bytes], token: str) -> list[str]:
    """Give the adapter in quarantine `token` the tokens of its own tokenizer, and tell what its owner should know."""
    config = config_in(store.quarantined(token))
    whole, remarks = taken(companions, config)
    if whole is not config:
        store.rewrite_config(token, whole)
    return remarks


def _on_template(companions: Mapping[str, bytes], own: Mapping[str, bytes]) -> list[str]:
    where, found = _template(companions)
    if not found or found.strip() == _template(own)[1].strip():
        return []
    return [
        f"The chat template beside the adapter ({where}) is another than the base's, and is not used: a conversation "
        "is written with the base's. If it was trained on another text, give that as a prompt with {field} where an "
        "input goes: --template FILE of import_adapter, card.toml beside the adapter, or “Template” in the admin."
    ]


def _on_tokens(within: Tokens, flagged: Tokens, beyond: Tokens) -> list[str]:
    told = []
    if within:
        told.append(
            f"The tokenizer beside the adapter has tokens that the base does not: {named(within)}. They are read in "
            "its prompts and written in its answers, for the base's table has rows for them."
        )
    if flagged:
        told.append(
            f"Its tokenizer takes spaces beside {named(flagged)}, or finds none within a word ({', '.join(FLAGS)}). "
            "Here such a token is wherever its text is, and spaces stay: leave out of its prompt those that it took."
        )
    if beyond:
        told.append(
            f"The tokenizer beside the adapter has tokens that the base does not: {named(beyond)}. They are not used, "
            f"for the base's table has no rows for them{_or_too_many(beyond)}: such text is read as several tokens of "
            "the base. Train on tokens that have rows there if the adapter needs them."
        )
    return told


def _or_too_many(tokens: Tokens) -> str:
    return f", or they are more than {MOST}" if len(tokens) > MOST else ""


def _template(files: Mapping[str, bytes]) -> tuple[str, str]:
    """Where a template lies among `files`, and the template; the file of its own comes before the settings."""
    if TEMPLATE in files:
        return TEMPLATE, files[TEMPLATE].decode("utf-8", "replace").replace("\r\n", "\n")
    found = object_in(files, SETTINGS).get("chat_template")
    if isinstance(found, list):
        entries = [each for each in found if isinstance(each, dict)]
        found = next((each.get("template") for each in entries if each.get("name") == "default"), None)
    return f"chat_template in {SETTINGS}", found if isinstance(found, str) else ""
