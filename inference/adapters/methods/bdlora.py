"""BD-LoRA: a LoRA one of whose matrices has blocks on its diagonal alone, which lie one below the other in its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from inference.adapters.config_file import show
from inference.adapters.methods.method import Method, Shapes

LABEL: Final = "BD-LoRA"
KEY: Final = "use_bdlora"
_PATTERNS: Final = {"A": "target_modules_bd_a", "B": "target_modules_bd_b"}
_MOST_PATTERNS: Final = 2000


@dataclass(frozen=True)
class BdLora:
    """`on` are texts by the matrix that has blocks in modules whose names hold one of them."""

    rank: int
    alpha: float
    blocks: int
    on: tuple[tuple[str, tuple[str, ...]], ...]
    label: str = LABEL

    def sides(self, module: str) -> list[str]:
        """Which of A and B has blocks in `module`; PEFT lets no module have two."""
        return [side for side, texts in self.on if any(text in module for text in texts)]

    def shapes(self, module: str, rank: int, inputs: int | None, outputs: int | None) -> Shapes:
        sides, blocks = self.sides(module), self.blocks
        return {
            "A": (rank, inputs and (inputs // blocks if "A" in sides else inputs)),
            "B": (outputs, rank // blocks if "B" in sides else rank),
        }

    def shared(self, inputs: int | None, outputs: int | None) -> Shapes:
        return {}

    def misfit(self, module: str, inputs: int, outputs: int) -> str:
        sides = self.sides(module)
        if len(sides) > 1:
            return f"{KEY} means blocks in A and in B of one module"
        width = {"A": inputs, "B": outputs}.get(sides[0] if sides else "", self.blocks)
        return "" if width % self.blocks == 0 else f"{self.blocks} blocks do not divide the width {width}"


def read(config: dict[str, Any], max_rank: int) -> tuple[Method | None, list[str]]:
    """Of a config whose `r` and `lora_alpha` are as they should be."""
    told = config[KEY]
    if not isinstance(told, dict):
        return None, [f"{KEY} is {show(told)}; PEFT writes an object of target_modules_bd_a, _b and nblocks."]
    reasons = [f"{KEY} has the key {show(key)}, which nobody here knows." for key in sorted(told.keys() - _KNOWN)[:5]]
    texts = {side: told.get(key) or [] for side, key in _PATTERNS.items()}
    for side, given in texts.items():
        if not _are_texts(given):
            reasons.append(f"{_PATTERNS[side]} of {KEY} is {show(given)}; it must list parts of modules' names.")
    blocks, rank = told.get("nblocks", 1), config["r"]
    if type(blocks) is not int or blocks < 1 or rank % blocks:
        reasons.append(
            f"nblocks of {KEY} is {show(blocks)}; it must be a whole number that divides r, which is {rank}."
        )
    if config.get("use_dora") or config.get("lora_bias"):
        reasons.append(
            f"{KEY} comes with use_dora or lora_bias, for which PEFT has no arithmetic; train without these."
        )
    if reasons:
        return None, reasons
    return BdLora(rank, float(config["lora_alpha"]), blocks, tuple((one, tuple(texts[one])) for one in "AB")), []


_KNOWN: Final = {*_PATTERNS.values(), "nblocks", "match_strict"}


def _are_texts(given: Any) -> bool:
    is_list = isinstance(given, list) and len(given) <= _MOST_PATTERNS
    return is_list and all(isinstance(text, str) for text in given)
