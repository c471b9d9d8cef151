"""Which modules of a base a config means by target_modules, and by what narrows them, as PEFT has it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from inference.adapters.config_file import show
from inference.adapters.patterns import fullmatch

ALL_LINEAR: Final = "all-linear"
DEFAULT: Final = ("q_proj", "v_proj")
"""What PEFT trains of most bases when target_modules is null."""
_LAYER: Final = re.compile(r".*?\.[^.]*\.(\d+)\.")


@dataclass(frozen=True)
class Targets:
    """Names, or one pattern; all modules that `excluded` means are left out, and names mean `layers` alone.

    `is_default`: nobody named any, and the base decides."""

    names: tuple[str, ...] = ()
    is_default: bool = False
    pattern: str = ""
    excluded: tuple[str, ...] = ()
    excluded_pattern: str = ""
    layers: frozenset[int] | None = None
    layers_patterns: tuple[str, ...] = ()

    def mean(self, module: str) -> bool:
        """Whether `module`, e.g. ``model.layers.0.self_attn.q_proj``, was trained. Raises `PatternRefused`."""
        if _is_named(module, self.excluded) or (self.excluded_pattern and fullmatch(self.excluded_pattern, module)):
            return False
        if self.pattern:
            is_linear = module.rpartition(".")[2] not in ("embed_tokens", "lm_head")
            return is_linear if self.pattern.lower() == ALL_LINEAR else fullmatch(self.pattern, module)
        return module in self.names or (_is_named(module, self.names) and self._is_in_layers(module))

    def names_of(self, module: str) -> set[str]:
        """The names that mean `module`, whatever narrows them."""
        return {name for name in self.names if _is_named(module, (name,))}

    def _is_in_layers(self, module: str) -> bool:
        if self.layers is None:
            return True
        for pattern in self.layers_patterns:
            found = [layer for layer in self.layers if fullmatch(rf"(?:^|.*?\.){pattern}\.{layer}\..*", module)]
            if found:
                return True
        if self.layers_patterns:
            return False
        numbered = _LAYER.match(module)
        return bool(numbered and int(numbered[1]) in self.layers)


def read_targets(config: dict[str, Any]) -> tuple[Targets, list[str]]:
    """What a parsed adapter_config.json trains, and what is wrong with the keys that say so, in sentences."""
    wanted: Any = config.get("target_modules")
    out: Any = config.get("exclude_modules")
    layers: Any = config.get("layers_to_transform")
    within: Any = config.get("layers_pattern")
    reasons = [
        *_refuse(wanted, "target_modules", wanted is None or _names(wanted), "the modules that were trained"),
        *_refuse(out, "exclude_modules", _is_nothing(out) or _names(out), "module names"),
        *_refuse(layers, "layers_to_transform", _is_nothing(layers) or _are_numbers(layers), "numbers of layers"),
        *_refuse(within, "layers_pattern", _is_nothing(within) or _names(within), "names"),
    ]
    if reasons:
        return Targets(), reasons
    return (
        Targets(
            names=() if isinstance(wanted, str) else tuple(DEFAULT if wanted is None else wanted),
            is_default=wanted is None,
            pattern=wanted if isinstance(wanted, str) else "",
            excluded=tuple(out) if isinstance(out, list) else (),
            excluded_pattern=out if isinstance(out, str) else "",
            layers=None if _is_nothing(layers) else frozenset([layers] if isinstance(layers, int) else layers),
            layers_patterns=() if _is_nothing(within) else tuple([within] if isinstance(within, str) else within),
        ),
        [],
    )


def _is_named(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _refuse(value: Any, key: str, is_right: bool, wanted: str) -> list[str]:
    return [] if is_right else [f"{key} is {show(value)}; it must list {wanted}."]


def _is_nothing(value: Any) -> bool:
    return value is None or value in ("", [])


def _names(value: Any) -> bool:
    """Whether it is a text, which is a pattern, or a list of names."""
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name for name in names)


def _are_numbers(value: Any) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return all(type(number) is int and number >= 0 for number in numbers)
