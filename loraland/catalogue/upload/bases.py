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
from loraland import bases
from loraland.bases import Base


def named_base(config: dict[str, Any]) -> str:
    """The base model's name in `config` without its owner: what fits is decided by the shapes."""
    return base_name(naming.named_base(config))


def doubt_about_base(config: dict[str, Any], base: Base, file: str = CONFIG) -> str:
    """What an owner confirms before an adapter whose shapes fit is served on another base than `file` names; empty
    where nothing is."""
    return naming.doubt_of(naming.named_base(config), base.name, file)


def remark_on_base(config: dict[str, Any], base: Base) -> str:
    """A word on a config that names no model; empty for one that does."""
    return naming.remark_of(naming.named_base(config), base.name)


def is_doubtful(config: dict[str, Any]) -> bool:
    """Whether the name in `config` leaves open which base is meant, or is that of a model that is not served."""
    verdicts = {naming.judge_base(naming.named_base(config), base.name) for base in bases.served()}
    return "same" not in verdicts and ("other" in verdicts or len(bases.served()) > 1)


def likely_base(config: dict[str, Any]) -> Base:
    """The served base that `config` names, or a copy of it; the default one where it names none of them."""
    named = naming.named_base(config)
    return next((base for base in bases.served() if naming.judge_base(named, base.name) == "same"), bases.default())


def base_named_in(directory: Path) -> str:
    """The base that the adapter in `directory` names; empty where nobody can read its config."""
    return named_base(config_in(directory))


def config_in(directory: Path) -> dict[str, Any]:
    """The config of the adapter in `directory`; empty where nobody can read it."""
    try:
        return read_config(directory / CONFIG)
    except ConfigRefused:
        return {}


def architecture_of(base: Base) -> Architecture | None:
    """The shapes of a base that is served; None while its config.json is not on this machine."""
    return _read(Path(base.model).expanduser()) or known_base(base.name)


def known_base(name: str) -> Architecture | None:
    """The base model `name`; None when it is not among the models of this machine, or none that is served here."""
    return _read(settings.MODELS_DIR / name) if name not in ("", "..") and Path(name).name == name else None


def _read(directory: Path) -> Architecture | None:
    if not (directory / "config.json").is_file():
        return None
    try:
        return read_architecture(directory / "config.json")
    except ArchitectureError:
        return None
