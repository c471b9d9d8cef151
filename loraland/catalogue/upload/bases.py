"""Which base an adapter is for: the one that its config names, and the shapes that this machine knows of a base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings

from inference.adapters import named_base as naming
from inference.adapters.config_file import ConfigRefused, read_config
from inference.adapters.examination import CONFIG
from inference.bases import base_name
from inference.model.architecture import Architecture, ArchitectureError, read_architecture


def named_base(config: dict[str, Any]) -> str:
    """The base model's name in `config` without its owner: what fits is decided by the shapes."""
    return base_name(naming.named_base(config))


def doubt_about_base(config: dict[str, Any]) -> str:
    """What an owner confirms before an adapter whose shapes fit is served on another base; empty where nothing is."""
    return naming.doubt_of(naming.named_base(config), settings.BASE_NAME)


def remark_on_base(config: dict[str, Any]) -> str:
    """A word on a config that names no model; empty for one that does."""
    return naming.remark_of(naming.named_base(config), settings.BASE_NAME)


def base_named_in(directory: Path) -> str:
    """The base that the adapter in `directory` names; empty where nobody can read its config."""
    return named_base(config_in(directory))


def config_in(directory: Path) -> dict[str, Any]:
    """The config of the adapter in `directory`; empty where nobody can read it."""
    try:
        return read_config(directory / CONFIG)
    except ConfigRefused:
        return {}


def served_base() -> Architecture | None:
    """The base that this site serves; None while its config.json is not on this machine."""
    return _read(Path(settings.BASE_MODEL).expanduser()) or known_base(settings.BASE_NAME)


def known_base(name: str) -> Architecture | None:
    """The base model `name`; None when it is not among the models of this machine, or none that is served here."""
    return _read(settings.MODELS_DIR / name) if name and Path(name).name == name else None


def _read(directory: Path) -> Architecture | None:
    if not (directory / "config.json").is_file():
        return None
    try:
        return read_architecture(directory / "config.json")
    except ArchitectureError:
        return None
