"""MultiLoRA (Wang et al., 2023): several LoRAs side by side on one linear, each output of each with a learned scale.

No release of its authors is known; names and shapes are those of the layer that others published. Folded, A' is all A
one below the other, and B' all B side by side, each row multiplied by its scale: one LoRA of the sum of the ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from inference.adapters.methods.method import COMMON, Kind, Method, Shapes, check_alpha, check_count, check_rank

LABEL: Final = "MultiLoRA"
A, B, SCALING = "lora_A", "lora_B", "lora_scaling"
_MOST_PARTS: Final = 512


@dataclass(frozen=True)
class MultiLora:
    """`rank` is that of all `parts`, `alpha` what makes its scale that of one."""

    rank: int
    alpha: float
    parts: int
    label: str = LABEL

    def shapes(self, module: str, rank: int, inputs: int | None, outputs: int | None) -> Shapes:
        own = self.rank // self.parts
        return {A: (self.parts, own, inputs), B: (self.parts, outputs, own), SCALING: (self.parts, outputs)}

    def shared(self, inputs: int | None, outputs: int | None) -> Shapes:
        return {}

    def misfit(self, module: str, inputs: int, outputs: int) -> str:
        return ""


def read(config: dict[str, Any], max_rank: int) -> tuple[Method | None, list[str]]:
    reasons = check_count(config, "lora_num", _MOST_PARTS)
    reasons += check_rank(config, LABEL, max_rank, 1 if reasons else config["lora_num"]) + check_alpha(config)
    if reasons:
        return None, reasons
    parts = config["lora_num"]
    return MultiLora(config["r"] * parts, float(config["lora_alpha"]) * parts, parts), []


KIND: Final = Kind(
    label=LABEL,
    used=COMMON | {"lora_alpha", "lora_num", "exclude_modules"},
    harmless=frozenset({"lora_dropout", "merge_weights", "fan_in_fan_out"}),
    biases=("lora_only",),
    read=read,
)
