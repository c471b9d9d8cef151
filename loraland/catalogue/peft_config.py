"""What an adapter_config.json may say: LoRA or DoRA. Everything else is refused by name, in a sentence."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, Final

from django.conf import settings

from loraland.catalogue.storable import is_storable

MAX_CONFIG_BYTES: Final = 1024 * 1024

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

_LITERAL: Final = re.compile(r"[A-Za-z0-9_.]{1,200}")


class _Duplicate(ValueError):
    pass


def read_config(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The object in the adapter_config.json at `path` and every reason to refuse it, one sentence each.

    The object is empty when the file cannot be read as one.
    """
    if path.stat().st_size > MAX_CONFIG_BYTES:
        return {}, [f"adapter_config.json is larger than {MAX_CONFIG_BYTES // 1024} KB; it should be a few lines."]
    try:
        config = json.loads(path.read_bytes(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except _Duplicate as error:
        return {}, [f"adapter_config.json {error}."]
    except (ValueError, RecursionError) as error:
        return {}, [f"adapter_config.json is not JSON ({error}); upload the file that PEFT saved."]
    if not isinstance(config, dict):
        return {}, ["adapter_config.json is not a JSON object; upload the file that PEFT saved."]
    if not is_storable(config):
        return {}, ["adapter_config.json holds characters or numbers that cannot be kept; upload PEFT's own file."]
    return config, list(_problems(config))


def named_base(config: dict[str, Any]) -> str:
    """The last part of the base model's name in `config`: advisory, because the shapes decide."""
    name = config.get("base_model_name_or_path")
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1][:200] if isinstance(name, str) else ""


def _problems(config: dict[str, Any]) -> list[str]:
    return [*_kind(config), *_features(config), *_numbers(config), *_targets(config), *_patterns(config)]


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


def _numbers(config: dict[str, Any]) -> list[str]:
    reasons = []
    if not _is_rank(rank := config.get("r")):
        reasons.append(f"r is {_show(rank)}; it must be a whole number from 1 to {settings.MAX_RANK}.")
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


def _patterns(config: dict[str, Any]) -> list[str]:
    reasons = []
    for key, is_right, wanted in (
        ("rank_pattern", _is_rank, f"whole numbers from 1 to {settings.MAX_RANK}"),
        ("alpha_pattern", _is_scale, "positive numbers"),
    ):
        pattern = config.get(key) or {}
        if not isinstance(pattern, dict):
            reasons.append(f"{key} is {_show(pattern)}; it must be an object of module names and {wanted}.")
            continue
        wrong = [name for name, value in pattern.items() if not is_right(value)]
        reasons += [f"{key} of {_show(name)} is {_show(pattern[name])}; it must hold {wanted}." for name in wrong[:10]]
        odd = [name for name in pattern if not _LITERAL.fullmatch(name)]
        reasons += [f"{key} has the key {_show(name)}; write module names in full, no patterns." for name in odd[:10]]
    return reasons


def _is_rank(value: Any) -> bool:
    return type(value) is int and 1 <= value <= settings.MAX_RANK


def _is_scale(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e9 and math.isfinite(value)


def _show(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise _Duplicate("names a key twice in one object; it could be read in two ways")
    return entries


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")
