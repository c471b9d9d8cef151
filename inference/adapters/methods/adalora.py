"""AdaLoRA (Zhang et al., 2023): factors of a singular value decomposition, of which training keeps the ranks that pay.

The pair of a module is A' = diag(E) A and B' = B, of as many ranks as it was left. All are scaled by one number: alpha
over the rank that each began with, to which PEFT adds 1e-5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from inference.adapters.config_file import show
from inference.adapters.methods.method import COMMON, MOST_ALPHA, Kind, Method, Shapes, check_count, check_rank

LABEL: Final = "AdaLoRA"
A, B, E = "lora_A", "lora_B", "lora_E"
_MOST_BEGUN: Final = 2**16
_MOST_MODULES: Final = 100_000
_MODULE: Final = re.compile(r"(?:base_model\.model\.)*+(.+)\.lora_E(?:\.[\w-]+)?")


@dataclass(frozen=True)
class AdaLora:
    """`ranks` are those of modules by name; another one has the rank that it began with, `begun`."""

    rank: int
    alpha: float
    begun: int
    ranks: Mapping[str, int]
    label: str = LABEL

    def shapes(self, module: str, rank: int, inputs: int | None, outputs: int | None) -> Shapes:
        own = self.ranks.get(module, self.begun)
        return {A: (own, inputs), B: (outputs, own), E: (own, 1)}

    def shared(self, inputs: int | None, outputs: int | None) -> Shapes:
        return {}

    def misfit(self, module: str, inputs: int, outputs: int) -> str:
        own = self.ranks.get(module, self.begun)
        return f"rank_pattern does not say that fewer than {own} ranks were left of modules" if own > self.rank else ""


def read(config: dict[str, Any], max_rank: int) -> tuple[Method | None, list[str]]:
    reasons = check_count(config, "init_r", _MOST_BEGUN)
    ranks, wrong = _ranks(config.get("rank_pattern") or {})
    alpha = config.get("lora_alpha")
    is_number = type(alpha) in (int, float) and abs(alpha) < MOST_ALPHA  # type: ignore[arg-type]
    if not is_number:
        reasons.append(f"lora_alpha is {show(alpha)}; it must be a number.")
    if reasons or wrong:
        return None, [*reasons, *wrong]
    begun, alpha = config["init_r"], config["lora_alpha"]
    rank = max(ranks.values(), default=begun)
    if reasons := check_rank({"r": rank}, LABEL, max_rank):
        return None, [f"Of the ranks that were left, {reasons[0]}"]
    scaling = (alpha if alpha > 0 else begun) / (begun + 1e-5)
    return AdaLora(rank, scaling * rank, begun, ranks), []


def _ranks(pattern: Any) -> tuple[dict[str, int], list[str]]:
    """How many ranks each module was left, of a list of true and false for each."""
    if not isinstance(pattern, dict) or len(pattern) > _MOST_MODULES:
        return {}, [f"rank_pattern is {show(pattern)}; AdaLoRA's has a list of true and false for each module."]
    ranks = {}
    for name, kept in pattern.items():
        found = _MODULE.fullmatch(name)
        if not found or not isinstance(kept, list) or not all(isinstance(one, bool) for one in kept):
            given = f"rank_pattern of {show(name)} is {show(kept)}"
            return {}, [f"{given}; AdaLoRA's has a list of true and false for each ….lora_E."]
        ranks[found[1]] = sum(kept)
    return ranks, []


KIND: Final = Kind(
    label=LABEL,
    used=COMMON | {"lora_alpha", "init_r", "rank_pattern", "exclude_modules"},
    harmless=frozenset(
        {
            *("target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"),
            *("lora_dropout", "fan_in_fan_out", "init_lora_weights", "megatron_core", "loftq_config", "eva_config"),
            *("corda_config", "lora_ga_config", "qalora_group_size"),
        }
    ),
    biases=("lora_only",),
    read=read,
)
