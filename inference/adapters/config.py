"""What an adapter_config.json may say, and what it means for the arithmetic: LoRA or DoRA, all else refused by name.

Pure: no torch, and the same for the site, which examines an upload, and the worker, which loads it. A field that
nobody here knows is refused, since it might change the result.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

_NEW_ARITHMETIC: Final = "which computes more than the LoRA and DoRA that are served here; train without it"
UNSUPPORTED: Final = {
    "modules_to_save": "carries whole modules (modules_to_save), which all adapters share here; train without them",
    "lora_bias": "trains biases (lora_bias), which the base does not have; set lora_bias to false",
    "fan_in_fan_out": "stores weights transposed (fan_in_fan_out), but the base's linears are not; set it to false",
    "trainable_token_indices": "trains token embeddings (trainable_token_indices), which all adapters share here",
    "layer_replication": "replicates layers (layer_replication), but every adapter shares one stack of layers here",
    "target_parameters": "targets bare parameters (target_parameters); only linear layers can be adapted here",
    "megatron_config": "was made for Megatron's parallel layers (megatron_config); export it for plain linears",
    "alora_invocation_tokens": "is an activated LoRA (alora_invocation_tokens), which is not served; train plain LoRA",
    "ensure_weight_tying": "ties what it learns of embed_tokens and lm_head (ensure_weight_tying); train them apart",
    "use_qalora": f"uses QA-LoRA (use_qalora), {_NEW_ARITHMETIC}",
    "use_bdlora": f"uses block-diagonal LoRA (use_bdlora), {_NEW_ARITHMETIC}",
    "arrow_config": f"routes between adapters (arrow_config), {_NEW_ARITHMETIC}",
    "kasa_config": f"uses KaSA (kasa_config), {_NEW_ARITHMETIC}",
    "velora_config": f"uses VeLoRA (velora_config), {_NEW_ARITHMETIC}",
    "monteclora_config": f"uses MonteCLoRA (monteclora_config), {_NEW_ARITHMETIC}",
}
"""Keys that must be empty or false, and what a filled one means."""

USED: Final = frozenset(
    {"r", "lora_alpha", "target_modules", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"}
)
CHECKED: Final = frozenset({"peft_type", "task_type", "bias", "init_lora_weights", "base_model_name_or_path"})
HARMLESS: Final = frozenset(
    {
        "auto_mapping",
        "peft_version",
        "revision",
        "inference_mode",
        "exclude_modules",
        "lora_dropout",
        "layers_to_transform",
        "layers_pattern",
        "megatron_core",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "qalora_group_size",
        "runtime_config",
    }
)
"""Keys that PEFT writes and that do not change the arithmetic of trained weights."""

SAFE_STARTS: Final = ("gaussian", "eva", "orthogonal")
"""Named ways to draw the first weights that leave the base as it is; pissa, olora and others rewrite it."""

MOST_PATTERN_KEYS: Final = 2000
"""More than one key for each module of the largest models means nothing."""

_LITERAL: Final = re.compile(r"[A-Za-z0-9_.]{1,200}")
"""PEFT takes a key of rank_pattern for a regular expression; of these only names are, so that none is ever run."""


@dataclass(frozen=True)
class LoraConfig:
    """Ranks and scalings of an adapter. `names` are those of target_modules; none where that is a single pattern."""

    r: int
    alpha: float
    is_rank_stabilised: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    names: frozenset[str]
    covers_all_layers: bool
    """Whether a name of a linear alone means it in every layer."""
    is_dora: bool = False
    """Whether the result is scaled to learned magnitudes (weight-decomposed LoRA; Liu et al., 2024)."""

    def rank(self, module: str) -> int:
        """The rank of `module`, e.g. ``model.layers.0.self_attn.q_proj``."""
        return next(iter(_meant(self.rank_pattern, module)), self.r)

    def scaling(self, module: str) -> float:
        """What the update of `module` is multiplied by: alpha / r, or alpha / sqrt(r) (Kalajdzievski, 2023)."""
        rank = self.rank(module)
        alpha = next(iter(_meant(self.alpha_pattern, module)), self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)

    def is_ambiguous(self, module: str) -> bool:
        """Whether two keys of a pattern give `module` different values."""
        return any(len(set(_meant(pattern, module))) > 1 for pattern in (self.rank_pattern, self.alpha_pattern))

    def misnamed(self, modules: Iterable[str]) -> tuple[list[str], list[str]]:
        """Those of `modules` that no name means, and the names that mean none of them."""
        met: set[str] = set()
        unnamed = []
        for module in modules if self.names else ():
            means = self.names.intersection(suffixes(module))
            met |= means
            if not means:
                unnamed.append(module)
        return unnamed, sorted(self.names - met)


def check_config(config: dict[str, Any], max_rank: int) -> tuple[LoraConfig | None, list[str]]:
    """Read a parsed adapter_config.json: its meaning and every reason to refuse it, in sentences.

    The meaning is None when the numbers make no sense; reasons may come beside a meaning too.
    """
    reasons = [*_kind(config), *_features(config)]
    ranks = _pattern(config, "rank_pattern", lambda value: _is_rank(value, max_rank), f"numbers from 1 to {max_rank}")
    alphas = _pattern(config, "alpha_pattern", _is_scale, "positive numbers")
    wrong = [*_numbers(config, max_rank), *_targets(config), *ranks, *alphas]
    return (None if wrong else _meaning(config)), reasons + wrong


def suffixes(module: str) -> list[str]:
    """The names by which a config may mean `module`: itself and what follows each of its dots, the shortest first."""
    parts = module.split(".")
    return list(accumulate(reversed(parts), lambda tail, part: f"{part}.{tail}"))


def _meant(pattern: Mapping[str, Any], module: str) -> list[Any]:
    """The values that the keys of `pattern` give to `module`, as PEFT matches them: by the end of its name."""
    return [pattern[name] for name in suffixes(module) if name in pattern] if pattern else []


def _meaning(config: dict[str, Any]) -> LoraConfig:
    targets = config["target_modules"]
    names = frozenset(targets) if isinstance(targets, list) else frozenset[str]()
    is_narrowed = config.get("layers_to_transform") is not None or bool(config.get("exclude_modules"))
    return LoraConfig(
        r=config["r"],
        alpha=float(config["lora_alpha"]),
        is_rank_stabilised=bool(config.get("use_rslora")),
        rank_pattern=config.get("rank_pattern") or {},
        alpha_pattern=config.get("alpha_pattern") or {},
        names=names,
        covers_all_layers=bool(names) and not is_narrowed,
        is_dora=bool(config.get("use_dora")),
    )


def _kind(config: dict[str, Any]) -> list[str]:
    reasons = []
    if config.get("peft_type") != "LORA":
        reasons.append(f"peft_type is {_show(config.get('peft_type'))}; only LORA adapters are served.")
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        reasons.append(f"task_type is {_show(config['task_type'])}; only CAUSAL_LM adapters write text.")
    unknown = sorted(set(config) - USED - CHECKED - HARMLESS - UNSUPPORTED.keys())
    if unknown:
        names = ", ".join(_show(name) for name in unknown[:10])
        reasons.append(f"adapter_config.json has unknown keys: {names}. PEFT writes none of these; remove them.")
    return reasons


def _features(config: dict[str, Any]) -> list[str]:
    reasons = [f"The adapter {UNSUPPORTED[key]}." for key in UNSUPPORTED if config.get(key)]
    if config.get("bias") not in (None, "none"):
        reasons.append(f"bias is {_show(config['bias'])}, but the base has no biases to train; only none is served.")
    start = config.get("init_lora_weights")
    if not (start is None or isinstance(start, bool) or start in SAFE_STARTS):
        reasons.append(
            f"init_lora_weights is {_show(start)}, which may rewrite the base's weights, and all adapters share them; "
            "convert the adapter to plain LoRA when saving (path_initial_model_for_weight_conversion)."
        )
    return reasons


def _numbers(config: dict[str, Any], max_rank: int) -> list[str]:
    reasons = []
    if not _is_rank(rank := config.get("r"), max_rank):
        reasons.append(f"r is {_show(rank)}; it must be a whole number from 1 to {max_rank}.")
    if not _is_scale(alpha := config.get("lora_alpha")):
        reasons.append(f"lora_alpha is {_show(alpha)}; it must be a positive number.")
    wrong = [key for key in ("use_rslora", "use_dora") if not isinstance(config.get(key), bool | None)]
    return reasons + [f"{key} is {_show(config[key])}; it must be true or false." for key in wrong]


def _targets(config: dict[str, Any]) -> list[str]:
    targets = config.get("target_modules")
    if isinstance(targets, str) and targets:
        return []  # a regular expression or "all-linear": never evaluated, the tensors tell what was trained
    if not isinstance(targets, list) or not targets or not all(isinstance(name, str) and name for name in targets):
        return [f"target_modules is {_show(targets)}; it must list the modules that were trained."]
    return []


def _pattern(config: dict[str, Any], key: str, is_right: Callable[[Any], bool], wanted: str) -> list[str]:
    pattern = config.get(key) or {}
    if not isinstance(pattern, dict):
        return [f"{key} is {_show(pattern)}; it must be an object of module names and {wanted}."]
    if len(pattern) > MOST_PATTERN_KEYS:
        return [f"{key} has {len(pattern)} keys; at most {MOST_PATTERN_KEYS} are read, one for each module suffices."]
    wrong = [name for name, value in pattern.items() if not is_right(value)]
    odd = [name for name in pattern if not _LITERAL.fullmatch(name)]
    return [
        *(f"{key} of {_show(name)} is {_show(pattern[name])}; it must hold {wanted}." for name in wrong[:10]),
        *(f"{key} has the key {_show(name)}; write module names in full, no patterns." for name in odd[:10]),
    ]


def _is_rank(value: Any, max_rank: int) -> bool:
    return type(value) is int and 1 <= value <= max_rank


def _is_scale(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e9 and math.isfinite(value)


def _show(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
