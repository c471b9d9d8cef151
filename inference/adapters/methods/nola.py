"""NOLA (Koohpayegani et al., 2024): A and B are sums of random bases, and a file holds the coefficients alone.

A = A0 + Σ a_i U_i / √k and B = Σ b_i V_i / √k over k bases that a seed gives. The released code draws them from torch's
global generator on the device and in the type of the training, so that its files mean other bases elsewhere. This
project's are a function of their numbers (`inference.adapters.random_bases`), and so is its file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from inference.adapters.config_file import show
from inference.adapters.methods.method import COMMON, Kind, Method, Shapes, check_alpha, check_count, check_rank

LABEL: Final = "NOLA"
COEFFICIENTS: Final = "nola_coefficients"
"""Of a module: [2, bases], those of A and those of B."""
GENERATOR: Final = "splitmix64-1"
"""Which function gives the bases; another one would have another name."""
MOST_BASES: Final = 4096
MOST_NUMBERS: Final = 2**31
"""That are drawn when an adapter is first loaded, some hundred million in a second of a core. A few KB could ask for
hours."""


@dataclass(frozen=True)
class Nola:
    rank: int
    alpha: float
    num_bases: int
    seed: int
    label: str = LABEL

    def shapes(self, module: str, rank: int, inputs: int | None, outputs: int | None) -> Shapes:
        return {COEFFICIENTS: (2, self.num_bases)}

    def shared(self, inputs: int | None, outputs: int | None) -> Shapes:
        return {}

    def misfit(self, module: str, inputs: int, outputs: int) -> str:
        return ""

    def excess(self, widths: Iterable[tuple[int, int]]) -> str:
        """Why so many bases are too many for modules of these inputs and outputs; empty if they are not."""
        numbers = self.rank * self.num_bases * sum(inputs + outputs for inputs, outputs in widths)
        if numbers <= MOST_NUMBERS:
            return ""
        return (
            f"nola_basis is {self.num_bases}: {numbers:,} numbers would be drawn when the adapter is loaded, and at "
            f"most {MOST_NUMBERS:,} are; take fewer bases, a lower rank or fewer modules"
        )


def read(config: dict[str, Any], max_rank: int) -> tuple[Method | None, list[str]]:
    reasons = check_rank(config, LABEL, max_rank) + check_count(config, "nola_basis", MOST_BASES) + check_alpha(config)
    seed = config.get("nola_seed")
    if type(seed) is not int or not 0 <= seed < 2**63:
        reasons.append(f"nola_seed is {show(seed)}; it must be a whole number from 0 to 2^63 - 1.")
    if config.get("nola_generator") != GENERATOR:
        reasons.append(
            f"nola_generator is {show(config.get('nola_generator'))}; the bases that are known here are {GENERATOR}'s."
        )
    if reasons:
        return None, reasons
    return Nola(config["r"], float(config["lora_alpha"]), config["nola_basis"], config["nola_seed"]), []


KIND: Final = Kind(
    label=LABEL,
    used=COMMON | {"lora_alpha", "exclude_modules", "nola_basis", "nola_seed", "nola_generator"},
    harmless=frozenset({"lora_dropout"}),
    biases=("lora_only",),
    read=read,
)
