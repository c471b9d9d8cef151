"""VeRA (Kopiczko et al., 2024): all modules share two random matrices, and each has two vectors that scale them.

The pair of a module is A' = diag(d) A[:, :inputs] and B' = diag(b) B[:outputs], of the rank of the shared ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from inference.adapters.methods.method import COMMON, Kind, Method, Shapes, check_rank

LABEL: Final = "VeRA"
D, B = "vera_lambda_d", "vera_lambda_b"
SHARED_A, SHARED_B = "vera_A", "vera_B"


@dataclass(frozen=True)
class Vera:
    rank: int
    label: str = LABEL

    @property
    def alpha(self) -> float:
        return float(self.rank)

    def shapes(self, module: str, rank: int, inputs: int | None, outputs: int | None) -> Shapes:
        return {D: (rank,), B: (outputs,)}

    def shared(self, inputs: int | None, outputs: int | None) -> Shapes:
        return {SHARED_A: (self.rank, inputs), SHARED_B: (outputs, self.rank)}

    def misfit(self, module: str, inputs: int, outputs: int) -> str:
        return ""


def read(config: dict[str, Any], max_rank: int) -> tuple[Method | None, list[str]]:
    reasons = check_rank(config, LABEL, max_rank)
    method = None if reasons else Vera(config["r"])
    if config.get("save_projection") is False:
        reasons.append(
            "save_projection is false: vera_A and vera_B are not in the file, and what torch draws for "
            "projection_prng_key need not be what was drawn where it was trained. There, `python -m "
            "inference.adapters.convert FOLDER --base MODEL` draws them again and writes them into the file."
        )
    return method, reasons


KIND: Final = Kind(
    label=LABEL,
    used=COMMON | {"save_projection"},
    harmless=frozenset({"projection_prng_key", "vera_dropout", "d_initial", "init_weights", "fan_in_fan_out"}),
    biases=("vera_only",),
    read=read,
)
