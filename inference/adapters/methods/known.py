"""Which methods of adapters are read: LoRA itself, and those that are expanded to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from inference.adapters.methods import adalora, bdlora, miss, multilora, nola, vblora, vera
from inference.adapters.methods.method import Kind

LORA: Final = "LORA"
METHODS: Final[Mapping[str, Kind]] = {
    "ADALORA": adalora.KIND,
    "VERA": vera.KIND,
    "MISS": miss.KIND,
    "VBLORA": vblora.KIND,
    "NOLA": nola.KIND,
    "MULTILORA": multilora.KIND,
}
"""By peft_type, besides LoRA."""


def kind_of(config: Mapping[str, Any]) -> Kind | None:
    """The method that a config names; None for LoRA, and for what is not read."""
    return METHODS.get(str(config.get("peft_type")).upper())


def method_of(config: Mapping[str, Any]) -> str:
    """What people call an adapter of this config, which was examined."""
    kind = kind_of(config)
    if kind is not None:
        return kind.label
    if config.get(bdlora.KEY):
        return bdlora.LABEL
    return "DoRA" if config.get("use_dora") else "LoRA"
