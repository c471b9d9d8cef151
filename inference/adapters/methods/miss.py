"""MiSS (Kang & Yin, 2024), once called Bone: inputs are added up in `rank` groups, and a block weighs the sums.

The pair of a module is A' with a 1 where an input's number modulo the rank is the row's, and B' = blockᵀ; in the form
"mini" the block is narrower and repeated over the outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from inference.adapters.config_file import show
from inference.adapters.methods.method import COMMON, Kind, Method, Shapes, check_count, check_rank

LABEL: Final = "MiSS"
BLOCK: Final = "miss_block"
_MOST_WIDTH: Final = 2**20


@dataclass(frozen=True)
class Miss:
    """`width` is that of the block if it is repeated, else 0."""

    rank: int
    width: int = 0
    label: str = LABEL

    @property
    def alpha(self) -> float:
        return float(self.rank)

    def shapes(self, module: str, rank: int, inputs: int | None, outputs: int | None) -> Shapes:
        return {BLOCK: (rank, self.width or outputs)}

    def shared(self, inputs: int | None, outputs: int | None) -> Shapes:
        return {}

    def misfit(self, module: str, inputs: int, outputs: int) -> str:
        is_whole = not self.width or outputs % self.width == 0
        return "" if is_whole else f"mini_r is {self.width}, which does not divide the {outputs} outputs"


def read(config: dict[str, Any], max_rank: int) -> tuple[Method | None, list[str]]:
    reasons = check_rank(config, LABEL, max_rank)
    start = config.get("init_weights")
    is_mini = start == "mini"
    if start == "bat":
        reasons.append(
            "init_weights is bat: such a MiSS multiplies the base's weights, so it is no LoRA; train with true or mini."
        )
    elif not (is_mini or start is None or isinstance(start, bool)):
        reasons.append(f"init_weights is {show(start)}; PEFT knows true, false, bat and mini.")
    if is_mini:
        reasons += check_count(config, "mini_r", _MOST_WIDTH)
    return (None if reasons else Miss(config["r"], config["mini_r"] if is_mini else 0)), reasons


KIND: Final = Kind(
    label=LABEL,
    used=COMMON | {"exclude_modules", "init_weights", "mini_r"},
    harmless=frozenset({"miss_dropout"}),
    biases=("MiSS_only", "miss_only"),
    read=read,
)
