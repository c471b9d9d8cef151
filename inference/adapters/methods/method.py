"""What a method besides LoRA is: how its files say pairs that they do not hold as such. Names and numbers, no torch.

Such an adapter is expanded to ordinary pairs A, B when it is loaded (`inference.adapters.expansion`), so nothing behind
that knows of it, and it costs there what a LoRA of its rank costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from inference.adapters.config_file import show

Shape = tuple[int | None, ...]
"""Of a tensor. None where the base decides, and which one it is is not known."""
Shapes = Mapping[str, Shape]
"""By the part of a module that has it (`inference.adapters.identity.PARTS`)."""

MOST_RANK: Final = 512
"""The highest that MAX_RANK may be."""
MOST_ALPHA: Final = 1e9


class Method(Protocol):
    """One adapter's numbers of a method, read from its config.

    `label` is what people call the method; `rank` what it is expanded to, which MAX_RANK bounds, and `alpha` over
    `rank` what B·A is multiplied by.
    """

    @property
    def label(self) -> str: ...

    @property
    def rank(self) -> int: ...

    @property
    def alpha(self) -> float: ...

    def shapes(self, module: str, rank: int, inputs: int | None, outputs: int | None) -> Shapes:
        """The tensors that `module` of so many inputs and outputs has, each of this shape."""
        ...

    def shared(self, inputs: int | None, outputs: int | None) -> Shapes:
        """The tensors that all modules share. Where the base decides, they are as large as its largest module."""
        ...

    def misfit(self, module: str, inputs: int, outputs: int) -> str:
        """Why no such adapter can be on `module`; empty if one can."""
        ...


Read = Callable[[dict[str, Any], int], tuple[Method | None, list[str]]]
"""An adapter_config.json and MAX_RANK to the method's numbers, or None, and what is wrong with them, in sentences."""


@dataclass(frozen=True)
class Kind:
    """A method as a config tells of it: which keys it has that mean something, and those that change nothing.

    `biases` are the values of the key `bias`, all of which mean that the file's biases are served; `trains_shared`
    tells whether what all modules share was trained.
    """

    label: str
    used: frozenset[str]
    harmless: frozenset[str]
    biases: tuple[Any, ...]
    read: Read
    trains_shared: bool = False


COMMON: Final = frozenset({"r", "target_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "bias"})
"""Keys that most methods share with LoRA, and that mean the same."""


def check_rank(config: Mapping[str, Any], label: str, max_rank: int, times: int = 1) -> list[str]:
    """What is wrong with `r`, of which the adapter's rank here is so many `times`."""
    rank = config.get("r")
    if type(rank) is not int or rank < 1:
        return [f"r is {show(rank)}; it must be a whole number of at least 1."]
    if rank * times <= max_rank:
        return []
    told = f"r is {rank}" + (f", {times} times" if times > 1 else "")
    way_out = f"raise MAX_RANK to {rank * times} for the site and the workers"
    if rank * times > MOST_RANK:
        way_out = f"MAX_RANK may be raised to {MOST_RANK} at most; train a lower rank"
    return [
        f"{told}: {label} is expanded to a LoRA of rank {rank * times} when it is loaded, and up to {max_rank} are "
        f"served here (MAX_RANK). To serve it, {way_out}."
    ]


def check_alpha(config: Mapping[str, Any]) -> list[str]:
    """What is wrong with `lora_alpha`."""
    alpha = config.get("lora_alpha")
    is_right = isinstance(alpha, int | float) and not isinstance(alpha, bool) and 0 < alpha < MOST_ALPHA
    return [] if is_right else [f"lora_alpha is {show(alpha)}; it must be a positive number."]


def check_count(config: Mapping[str, Any], key: str, most: int) -> list[str]:
    """What is wrong with a whole number from 1 to `most`."""
    value = config.get(key)
    is_right = type(value) is int and 1 <= value <= most
    return [] if is_right else [f"{key} is {show(value)}; it must be a whole number from 1 to {most}."]
