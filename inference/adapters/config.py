"""What an adapter_config.json may say, and what it means for the arithmetic: LoRA, DoRA and methods that are expanded
to LoRA, all else refused by name.

Pure: no torch, and the same for the site, which examines an upload, and the worker, which loads it. Keys are judged by
their values: one that is empty or false asks for nothing, whoever wrote it. A filled one that nobody here knows is
refused, since it might change the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from inference.adapters import invocation
from inference.adapters.config_file import show
from inference.adapters.methods import bdlora
from inference.adapters.methods.known import LORA, kind_of
from inference.adapters.methods.method import Kind, Method
from inference.adapters.methods.others import refusal
from inference.adapters.patterns import PatternRefused, compiled, fullmatch, is_literal
from inference.adapters.tables import TrainedTables, read_tables
from inference.adapters.targets import Targets, read_targets
from inference.model import added_tokens
from inference.model.added_tokens import AddedToken, read_added
from inference.model.architecture import Architecture

_NEW_ARITHMETIC: Final = "which computes more than the LoRA and DoRA that are served here; train without it"
UNSUPPORTED: Final = {
    "layer_replication": "replicates layers (layer_replication), but every adapter shares one stack of layers here",
    "target_parameters": "targets bare parameters (target_parameters); only linear layers can be adapted here",
    "megatron_config": "was made for Megatron's parallel layers (megatron_config); export it for plain linears",
    "ensure_weight_tying": "ties what it learns of embed_tokens and lm_head (ensure_weight_tying); train them apart",
    "use_nola": "was trained by NOLA's first code (use_nola), for which torch draws other bases on another device or "
    "in another type; multiply A and B out where it was trained, and save a plain LoRA of them",
    "use_qalora": f"uses QA-LoRA (use_qalora), {_NEW_ARITHMETIC}",
    "enable_lora": "merges projections in one (enable_lora), as PEFT's first versions could; convert it there",
    "arrow_config": f"routes between adapters (arrow_config), {_NEW_ARITHMETIC}",
    "kasa_config": f"uses KaSA (kasa_config), {_NEW_ARITHMETIC}",
    "velora_config": f"uses VeLoRA (velora_config), {_NEW_ARITHMETIC}",
    "monteclora_config": f"uses MonteCLoRA (monteclora_config), {_NEW_ARITHMETIC}",
}
"""Keys that must be empty or false, and what a filled one means."""

USED: Final = frozenset(
    {
        "r",
        "lora_alpha",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "use_rslora",
        "use_dora",
        "rank_pattern",
        "alpha_pattern",
        "trainable_token_indices",
        "modules_to_save",
        "bias",
        "lora_bias",
        bdlora.KEY,
        added_tokens.KEY,
        invocation.KEY,
    }
)
CHECKED: Final = frozenset({"peft_type", "task_type", "init_lora_weights", "base_model_name_or_path"})
HARMLESS: Final = frozenset(
    {
        "auto_mapping",
        "peft_version",
        "revision",
        "inference_mode",
        "lora_dropout",
        "merge_weights",
        "fan_in_fan_out",
        "megatron_core",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "qalora_group_size",
        "nola_num_basis",
        "runtime_config",
    }
)
"""Keys that PEFT writes and that do not change the arithmetic of trained weights. PEFT itself takes a true
fan_in_fan_out for false where a base has linears, as all have that are served here."""
OF_ANY: Final = frozenset(
    {"auto_mapping", "peft_version", "revision", "inference_mode", "runtime_config", added_tokens.KEY}
)
"""Keys that an adapter of any method may have."""

NOTHING: Final[tuple[Any, ...]] = (None, False, "", [], {})
"""Values by which a key asks for nothing."""
_NO_BIASES: Final = (None, False, "none")
BIASES: Final = (*_NO_BIASES, "all", "lora_only")
"""What a file holds is served, whatever was asked: PEFT reads it too, and saves the head's with any LoRA on it."""
SAFE_STARTS: Final = ("gaussian", "eva", "orthogonal")
"""Named ways to draw the first weights that leave the base as it is; pissa, olora and others rewrite it."""

MOST_EXPRESSIONS: Final = 64
"""Regular expressions in a pattern; each is tried on every module."""
MOST_PATTERN_KEYS: Final = 2000
"""More than one key for each module of the largest models means nothing."""


@dataclass(frozen=True)
class LoraConfig:
    """Ranks and scalings of an adapter, and the modules that it was trained on."""

    r: int
    alpha: float
    is_rank_stabilised: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    targets: Targets
    is_dora: bool = False
    """Whether the result is scaled to learned magnitudes (weight-decomposed LoRA; Liu et al., 2024)."""
    tables: TrainedTables = field(default_factory=TrainedTables)
    """Rows of the embedding and the head that were trained themselves."""
    trains_biases: bool = False
    """Whether biases of the base were trained, and are in the file if the base has any."""
    has_shifts: bool = False
    """Whether each B has a bias, which its scaling multiplies too (lora_bias)."""
    tokens: tuple[AddedToken, ...] = ()
    """Of its own tokenizer, beyond the base's."""
    method: Method | None = None
    """How its file says its pairs, if not as they are; `r` and `alpha` are those of what it is expanded to."""
    invocation: tuple[int, ...] = ()
    """The tokens from whose last occurrence on it is active (`inference.adapters.invocation`); always where there are
    none."""

    def on(self, architecture: Architecture) -> LoraConfig:
        """The same for that base, which says what is trained where target_modules is null."""
        if not self.targets.is_default:
            return self
        return replace(self, targets=replace(self.targets, names=architecture.names.default_targets))

    def rank(self, module: str) -> int:
        """The rank of `module`, e.g. ``model.layers.0.self_attn.q_proj``. Raises `PatternRefused`."""
        return int(_meant(self.rank_pattern, module, self.r))

    def scaling(self, module: str) -> float:
        """What the update of `module` is multiplied by: alpha / r, or alpha / sqrt(r) (Kalajdzievski, 2023)."""
        rank = self.rank(module)
        alpha = _meant(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)


def check_config(config: dict[str, Any], max_rank: int) -> tuple[LoraConfig | None, list[str]]:
    """Read a parsed adapter_config.json: its meaning and every reason to refuse it, in sentences.

    The meaning is None when the numbers make no sense; reasons may come beside a meaning too.
    """
    kind = kind_of(config)
    method, unformed = (kind.read if kind else _read_plain)(config, max_rank)
    reasons = [*_kind(config), *(_method_features(config, kind) if kind else _features(config))]
    patterns = {} if kind else config
    ranks = _pattern(patterns, "rank_pattern", lambda value: _is_rank(value, max_rank), f"numbers from 1 to {max_rank}")
    alphas = _pattern(patterns, "alpha_pattern", _is_scale, "positive numbers")
    targets, unclear = read_targets(config)
    tables, unserved = read_tables(config, max_rank)
    tokens, unread = read_added(config)
    invoked_by, unknown = invocation.read_invocation(config)
    wrong = [*unformed, *unclear, *ranks, *alphas, *unread, *unknown]
    meaning = None if wrong else replace(_meaning(config, method, targets, tables, tokens), invocation=invoked_by)
    return meaning, [*reasons, *unserved, *wrong]


def _meant(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first key, in the file's order, that matches `module` or its end from a dot on (PEFT's rule)."""
    keys = (key for key in pattern if _means(key, module))
    return next((pattern[key] for key in keys), default)


def _means(key: str, module: str) -> bool:
    if is_literal(key):
        return module == key or module.endswith(f".{key}")
    return fullmatch(rf"(?:.*\.)?(?:{key})", module)


def _meaning(
    config: dict[str, Any],
    method: Method | None,
    targets: Targets,
    tables: TrainedTables,
    tokens: tuple[AddedToken, ...],
) -> LoraConfig:
    patterns = {} if kind_of(config) else config
    return LoraConfig(
        r=method.rank if method else config["r"],
        alpha=method.alpha if method else float(config["lora_alpha"]),
        is_rank_stabilised=bool(config.get("use_rslora")),
        rank_pattern=patterns.get("rank_pattern") or {},
        alpha_pattern=patterns.get("alpha_pattern") or {},
        targets=targets,
        is_dora=bool(config.get("use_dora")),
        tables=tables,
        trains_biases=config.get("bias") not in _NO_BIASES,
        has_shifts=bool(config.get("lora_bias")),
        tokens=tokens,
        method=method,
    )


def _kind(config: dict[str, Any]) -> list[str]:
    reasons = []
    kind = kind_of(config)
    if kind is None and str(config.get("peft_type")).upper() != LORA:
        told = config.get("peft_type")
        reasons.append(f"peft_type is {show(told)}; {refusal(str(told).upper())}")
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        reasons.append(f"task_type is {show(config['task_type'])}; only CAUSAL_LM adapters write text.")
    own = kind.used | kind.harmless | OF_ANY if kind else USED | HARMLESS | UNSUPPORTED.keys()
    known = own | CHECKED
    unknown = sorted(key for key, value in config.items() if key not in known and value not in NOTHING)
    if unknown:
        given = ", ".join(f"{show(name)}: {show(config[name])}" for name in unknown[:10])
        reasons.append(
            f"adapter_config.json has keys that nobody here knows: {given}. They may change what the adapter computes; "
            "remove them if they do not."
        )
    return reasons


def _method_features(config: dict[str, Any], kind: Kind) -> list[str]:
    choices = (*_NO_BIASES, "all", *kind.biases)
    return [] if config.get("bias") in choices else [f"bias is {show(config['bias'])}; PEFT knows none and all."]


def _features(config: dict[str, Any]) -> list[str]:
    reasons = [f"The adapter {UNSUPPORTED[key]}." for key in UNSUPPORTED if config.get(key)]
    if config.get("bias") not in BIASES:
        reasons.append(f"bias is {show(config['bias'])}; PEFT knows none, all and lora_only.")
    if config.get("lora_bias") and config.get("use_dora"):
        reasons.append("lora_bias comes with use_dora, for which PEFT has no arithmetic; train with one of the two.")
    start = config.get("init_lora_weights")
    if not (start in NOTHING or isinstance(start, bool) or start in SAFE_STARTS):
        reasons.append(
            f"init_lora_weights is {show(start)}, which may rewrite the base's weights, and all adapters share them; "
            "convert the adapter to plain LoRA when saving (path_initial_model_for_weight_conversion)."
        )
    return reasons


def _read_plain(config: dict[str, Any], max_rank: int) -> tuple[Method | None, list[str]]:
    """Of a LoRA, whose pairs may have blocks."""
    reasons = _numbers(config, max_rank)
    return bdlora.read(config, max_rank) if config.get(bdlora.KEY) and not reasons else (None, reasons)


def _numbers(config: dict[str, Any], max_rank: int) -> list[str]:
    reasons = []
    if not _is_rank(rank := config.get("r"), max_rank):
        reasons.append(f"r is {show(rank)}; it must be a whole number from 1 to {max_rank}.")
    if not _is_scale(alpha := config.get("lora_alpha")):
        reasons.append(f"lora_alpha is {show(alpha)}; it must be a positive number.")
    wrong = [key for key in ("use_rslora", "use_dora", "lora_bias") if not isinstance(config.get(key), bool | None)]
    return reasons + [f"{key} is {show(config[key])}; it must be true or false." for key in wrong]


def _pattern(config: dict[str, Any], key: str, is_right: Callable[[Any], bool], wanted: str) -> list[str]:
    pattern = config.get(key) or {}
    if not isinstance(pattern, dict):
        return [f"{key} is {show(pattern)}; it must be an object of module names and {wanted}."]
    if len(pattern) > MOST_PATTERN_KEYS:
        return [f"{key} has {len(pattern)} keys; at most {MOST_PATTERN_KEYS} are read, one for each module suffices."]
    wrong = [name for name, value in pattern.items() if not is_right(value)]
    return [
        *(f"{key} of {show(name)} is {show(pattern[name])}; it must hold {wanted}." for name in wrong[:10]),
        *_unreadable(key, [name for name in pattern if not is_literal(name)]),
    ]


def _unreadable(key: str, patterns: list[str]) -> list[str]:
    """What is wrong with those of `patterns` that are none."""
    reasons = []
    if len(patterns) > MOST_EXPRESSIONS:
        reasons.append(f"{key} has {len(patterns)} patterns; at most {MOST_EXPRESSIONS} are read beside names.")
    for pattern in patterns[:MOST_EXPRESSIONS]:
        try:
            compiled(rf"(?:.*\.)?(?:{pattern})")
        except PatternRefused as error:
            reasons.append(f"{key}: {error}")
    return reasons[:10]


def _is_rank(value: Any, max_rank: int) -> bool:
    return type(value) is int and 1 <= value <= max_rank


def _is_scale(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e9 and math.isfinite(value)
