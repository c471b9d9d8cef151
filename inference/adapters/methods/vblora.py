"""VB-LoRA (Li et al., 2024): pieces of A and B are mixtures of the vectors of one bank that all modules share.

Each piece has a share of its `topk` vectors of the largest logits, by their softmax. A file holds the logits of all
vectors, or, with `save_only_topk_weights`, the numbers of the chosen ones and all their shares but the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from inference.adapters.methods.method import COMMON, Kind, Method, Shapes, check_count, check_rank

LABEL: Final = "VB-LoRA"
BANK: Final = "vblora_vector_bank"
LOGITS: Final = {"A": "vblora_logits_A", "B": "vblora_logits_B"}
INDICES, SHARES = "_topk_indices", "_topk_weights"
MOST_CHOSEN: Final = 64
"""Vectors in a piece. Each is a pass over the pair; two are usual."""
_MOST_VECTORS: Final = 2**24
_MOST_LENGTH: Final = 2**20


@dataclass(frozen=True)
class VbLora:
    """`is_chosen`: the file has the chosen vectors instead of logits."""

    rank: int
    num_vectors: int
    length: int
    topk: int
    is_chosen: bool
    label: str = LABEL

    @property
    def alpha(self) -> float:
        return float(self.rank)

    def shapes(self, module: str, rank: int, inputs: int | None, outputs: int | None) -> Shapes:
        length = self.length
        pieces = {"A": (rank, inputs and inputs // length), "B": (outputs and outputs // length, rank)}
        if not self.is_chosen:
            return {LOGITS[side]: (*shape, self.num_vectors) for side, shape in pieces.items()}
        counts = {INDICES: self.topk, SHARES: self.topk - 1}
        return {LOGITS[side] + end: (*shape, size) for side, shape in pieces.items() for end, size in counts.items()}

    def shared(self, inputs: int | None, outputs: int | None) -> Shapes:
        return {BANK: (self.num_vectors, self.length)}

    def misfit(self, module: str, inputs: int, outputs: int) -> str:
        length = self.length
        is_whole = inputs % length == 0 and outputs % length == 0
        return "" if is_whole else f"vector_length is {length}, which does not divide the widths {inputs} and {outputs}"


def read(config: dict[str, Any], max_rank: int) -> tuple[Method | None, list[str]]:
    bounds = {"num_vectors": _MOST_VECTORS, "vector_length": _MOST_LENGTH, "topk": MOST_CHOSEN}
    reasons = [*check_rank(config, LABEL, max_rank)]
    for key, most in bounds.items():
        reasons += check_count(config, key, most)
    if not reasons and config["topk"] > config["num_vectors"]:
        reasons.append(f"topk is {config['topk']}, more than the {config['num_vectors']} vectors (num_vectors).")
    if reasons:
        return None, reasons
    is_chosen = bool(config.get("save_only_topk_weights"))
    return VbLora(config["r"], config["num_vectors"], config["vector_length"], config["topk"], is_chosen), []


KIND: Final = Kind(
    label=LABEL,
    used=COMMON | {"exclude_modules", "num_vectors", "vector_length", "topk", "save_only_topk_weights"},
    harmless=frozenset({"vblora_dropout", "fan_in_fan_out", "init_vector_bank_bound", "init_logits_std"}),
    biases=("vblora_only",),
    read=read,
    trains_shared=True,
)
