"""Where the rows of a task lie on the Hugging Face hub, and which columns they are made of: `[hub]` of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from inference.tasks.hub_readings import READINGS

_LISTS: Final = ("configs", "train", "test", "labels")


class HubError(ValueError):
    """A table `[hub]` that cannot be followed."""


@dataclass(frozen=True)
class Hub:
    """One data set of the hub.

    `id` is a repository, or a local folder that is laid out like one. `train` and `test` name splits of `configs`, or
    files of the repository (`data/train.json`); without `test`, a part of `train` is held out. `inputs` says how the
    columns fill each field (``{"text": "{sentence}"}``), `target` is the column of the answer, `labels` its names where
    it holds whole numbers. `reading` prepares a row whose columns do not map plainly: a key of `READINGS`.
    """

    id: str
    inputs: Mapping[str, str]
    target: str
    train: tuple[str, ...] = ("train",)
    test: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    revision: str = "main"
    labels: tuple[str, ...] = ()
    reading: str = ""


def parse_hub(table: Mapping[str, Any]) -> Hub:
    """The `Hub` that `table` describes. Raises `HubError` for a wrong entry, TypeError for a missing or unknown one."""
    lists = {name: tuple(table[name]) for name in _LISTS if name in table}
    hub = Hub(**{**table, **lists})
    if hub.reading and hub.reading not in READINGS:
        raise HubError(f"reading = {hub.reading!r} is not known; known are {', '.join(sorted(READINGS))}")
    if strings := [name for name in _LISTS if isinstance(table.get(name), str)]:
        raise HubError(f"{strings[0]} must be a list of strings")
    return hub
