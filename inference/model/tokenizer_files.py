"""A base's tokenizer from whichever file it comes in: tokenizer.json, Mistral's tekken.json, or SentencePiece's
tokenizer.model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from inference.model.json_file import read_object
from inference.model.sentencepiece_file import SentencePieceRefused, read_sentencepiece
from inference.model.tekken_file import TekkenRefused, read_tekken
from inference.model.tokenizer_content import added_token
from inference.reading import Refused, reading

FILES: Final = ("tokenizer.json", "tekken.json", "tokenizer.model")


class TokenizerError(Refused):
    """A tokenizer that cannot be used, or a conversation that the base's chat template refuses."""


def has_tokenizer(directory: Path) -> bool:
    """Whether there is a file of a tokenizer in `directory`."""
    return any((directory / name).is_file() for name in FILES)


def read_tokenizer(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of the tokenizer.json of the base in `directory`, or of one made from what there is, and the settings
    that lie beside it. Raises `TokenizerError`."""
    settings = read_settings(directory)
    path = next((directory / name for name in FILES if (directory / name).is_file()), None)
    if path is None:
        known = f"{', '.join(FILES[:-1])} or {FILES[-1]}"
        raise TokenizerError(f"{directory} has no {known}; a model directory needs one of them")
    saved = {} if path.suffix == ".model" else read_object(path, TokenizerError)
    if path.name == "tokenizer.json":
        return saved, settings
    try:
        content, names = read_sentencepiece(path, settings) if path.suffix == ".model" else read_tekken(saved)
    except (SentencePieceRefused, TekkenRefused, ValueError) as error:
        raise TokenizerError(f"{path} {error}") from error
    with reading(f"what stands beside {path}", TokenizerError):
        _add(content, directory, settings)
    return content, names | settings


def read_settings(directory: Path) -> dict[str, Any]:
    """What the tokenizer's configuration says, by its own file and, where that is silent, by the older one."""
    files = [
        read_object(directory / name, TokenizerError) for name in ("special_tokens_map.json", "tokenizer_config.json")
    ]
    return {key: value for file in files for key, value in file.items() if value is not None}


def _add(content: dict[str, Any], directory: Path, settings: dict[str, Any]) -> None:
    """Add the tokens that stand beside the file, in the newer form and in the older one."""
    known = {token["id"]: token for token in content["added_tokens"]}
    for name, number in read_object(directory / "added_tokens.json", TokenizerError).items():
        known[number] = added_token(number, name, is_special=False)
    for number, token in (settings.get("added_tokens_decoder") or {}).items():
        known[int(number)] = {"id": int(number), **token}
    content["added_tokens"] = [known[number] for number in sorted(known)]
