"""What an adapter_config.json means for the arithmetic, and which of its wishes are not computed here.

Pure: no torch. A field that nobody here knows is refused when it is set, since it might change the result.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final

from inference.architecture import EMBEDDING, HEAD, TARGETS

UNSUPPORTED: Final = {
    "modules_to_save": "modules_to_save",
    "layer_replication": "layer_replication",
    "lora_bias": "lora_bias",
    "trainable_token_indices": "trainable_token_indices",
    "megatron_config": "Megatron",
    "target_parameters": "target_parameters",
    "fan_in_fan_out": "fan_in_fan_out",
    "use_qalora": "QALoRA",
    "alora_invocation_tokens": "aLoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "ensure_weight_tying": "ensure_weight_tying",
}
"""Fields that change the arithmetic in ways that are not computed here, and what they are called."""

_KNOWN: Final = frozenset(
    [
        "peft_type",
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "use_dora",
        "bias",
        "init_lora_weights",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "runtime_config",
        "megatron_core",
        "qalora_group_size",
    ]
)
_SAFE_STARTS: Final = ("gaussian", "eva", "orthogonal")
"""Ways to draw the first A and B that leave the base as it is; pissa, olora and others change it."""
_ADAPTABLE: Final = frozenset((*TARGETS, EMBEDDING, HEAD))
_MAX_PATTERN: Final = 200
_BEYOND: Final = 1e30
"""Beside infinities and NaN this leaves out whole numbers that no float can hold."""


@dataclass(frozen=True)
class LoraConfig:
    """Ranks and scalings of an adapter. `targets` are the modules that it names one by one."""

    r: int
    alpha: float
    is_rank_stabilised: bool
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    targets: frozenset[str]
    covers_all_layers: bool
    is_dora: bool = False
    """Whether the result is scaled to learned magnitudes (weight-decomposed LoRA; Liu et al., 2024)."""

    def rank(self, module: str) -> int:
        """The rank of `module`, e.g. ``model.layers.0.self_attn.q_proj``."""
        rank: int = _match(self.rank_pattern, module, self.r)
        return rank

    def scaling(self, module: str) -> float:
        """What the update of `module` is multiplied by: alpha / r, or alpha / sqrt(r) (Kalajdzievski, 2023)."""
        rank = self.rank(module)
        alpha: float = _match(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)


def check_config(config: dict[str, Any], max_rank: int) -> tuple[LoraConfig | None, list[str]]:
    """Read a parsed adapter_config.json; None with the reasons when its numbers make no sense.

    Reasons may come beside a config too: features that are not supported.
    """
    reasons = _check_features(config)
    bad_numbers = _check_numbers(config, max_rank)
    if bad_numbers:
        return None, reasons + bad_numbers
    targets = config.get("target_modules")
    named = {str(name).rsplit(".", 1)[-1] for name in targets} if isinstance(targets, list) else set()
    narrowed = any(config.get(key) is not None for key in ("layers_to_transform", "exclude_modules"))
    plain = isinstance(targets, list) and set(targets) <= _ADAPTABLE
    read = LoraConfig(
        r=config["r"],
        alpha=float(config["lora_alpha"]),
        is_rank_stabilised=bool(config.get("use_rslora")),
        rank_pattern=config.get("rank_pattern") or {},
        alpha_pattern=config.get("alpha_pattern") or {},
        targets=frozenset(named & _ADAPTABLE),
        covers_all_layers=plain and not narrowed,
        is_dora=bool(config.get("use_dora")),
    )
    return read, reasons


def _check_features(config: dict[str, Any]) -> list[str]:
    reasons = [f"{name} ({key}) is not supported" for key, name in UNSUPPORTED.items() if config.get(key)]
    if config.get("peft_type", "LORA") != "LORA":
        reasons.append(f"peft_type is {config['peft_type']!r}; only LORA is supported")
    if config.get("bias", "none") != "none":
        reasons.append(f"bias is {config['bias']!r}; only none is supported")
    start = config.get("init_lora_weights", True)
    if not (start is None or isinstance(start, bool) or start in _SAFE_STARTS):
        reasons.append(f"init_lora_weights {start!r} changes the base; convert the adapter first")
    unknown = sorted(key for key in config if key not in _KNOWN and key not in UNSUPPORTED and config[key])
    return reasons + [f"the field {key!r} is not known, so its effect cannot be computed" for key in unknown]


def _check_numbers(config: dict[str, Any], max_rank: int) -> list[str]:
    reasons = []
    if not _is_rank(config.get("r")):
        reasons.append(f"r is {config.get('r')!r}; it must be a whole number from 1")
    if not _is_number(config.get("lora_alpha")):
        reasons.append(f"lora_alpha is {config.get('lora_alpha')!r}; it must be a number")
    if not _are_names(config.get("target_modules")):
        reasons.append("target_modules must be a list of names or one pattern")
    for key, is_valid in (("rank_pattern", _is_rank), ("alpha_pattern", _is_number)):
        pattern = config.get(key) or {}
        if not isinstance(pattern, dict) or not all(is_valid(value) for value in pattern.values()):
            reasons.append(f"{key} must map module names to numbers")
        else:
            reasons += [
                f"{key}: {name[:80]!r} is no pattern that can be matched" for name in pattern if not _is_safe(name)
            ]
    if reasons:
        return reasons
    largest = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    return [f"the rank {largest} is above {max_rank}, the most that is served (MAX_RANK)"] if largest > max_rank else []


def _is_rank(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _BEYOND


def _are_names(targets: Any) -> bool:
    return (
        targets is None
        or isinstance(targets, str)
        or (isinstance(targets, list) and all(isinstance(name, str) for name in targets))
    )


def _is_safe(pattern: str) -> bool:
    """A regular expression that compiles and cannot run away: no repeated group, no back-reference."""
    if len(pattern) > _MAX_PATTERN or re.search(r"\)\s*[*+{?]|\\[1-9]|\(\?", pattern) or pattern.count("*") > 4:
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _match(patterns: dict[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of `module`, as PEFT looks it up."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
