"""Which tensor of an adapter's file is which matrix of which module of the base, by names and shapes alone."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Final

from inference.adapters.config import LoraConfig
from inference.adapters.identity import TensorInfo, part_of
from inference.model.architecture import EMBEDDING, HEAD, TARGETS, Architecture, module_name, module_path

ModuleKey = tuple[str, int]
"""A target and its layer."""
Bound = dict[ModuleKey, dict[str, TensorInfo]]
"""The tensors of each module by part: A [rank, in], B [out, rank], magnitude [out]."""

_MODULE: Final = re.compile(r"(?:model\.)?layers\.([0-9]{1,5})\.([\w.]+)|(?:model\.)?(embed_tokens)|(lm_head)")
_TARGET_OF: Final = {module_path(target): target for target in TARGETS} | {EMBEDDING: EMBEDDING, HEAD: HEAD}


def bind(header: dict[str, TensorInfo], architecture: Architecture) -> tuple[Bound, list[str]]:
    """Give each tensor of `header` to a module of the base, and say which cannot be given."""
    bound: Bound = defaultdict(dict)
    reasons = []
    for tensor in header.values():
        place = _place(tensor.name, architecture)
        if place is None:
            reasons.append(_unbound(tensor.name, architecture))
            continue
        key, part = place
        if part in bound[key]:
            reasons.append(f"{tensor.name} comes twice under different names")
        bound[key][part] = tensor
    if not header:
        reasons.append("adapter_model.safetensors holds no tensors")
    for key, parts in bound.items():
        reasons += _check_shapes(_shown(key), parts, architecture.target_shape(key[0]))
        reasons += _check_copy(_shown(key), parts, (architecture.vocab_size, architecture.hidden_size))
    return bound, reasons


def check_against(config: LoraConfig, bound: Bound, architecture: Architecture) -> list[str]:
    """What the file and its config say differently of ranks, magnitudes and modules."""
    return _check_ranks(bound, config) + _check_magnitudes(bound, config) + _check_targets(bound, config, architecture)


def _place(name: str, architecture: Architecture) -> tuple[ModuleKey, str] | None:
    module, part = part_of(name) or ("", "")
    match = _MODULE.fullmatch(module)
    target = _TARGET_OF.get(match[2] or match[3] or match[4]) if match else None
    if match is None or target is None:
        return None
    layer = int(match[1] or 0)
    return ((target, layer), part) if layer < architecture.target_layers(target) else None


def _unbound(name: str, architecture: Architecture) -> str:
    if "lm_head" in name or "embed_tokens" in name or "modules_to_save" in name:
        return f"{name}: whole modules (modules_to_save) are not supported; train a LoRA on them"
    linears = f"{architecture.num_layers} layers of {', '.join(TARGETS)}, {EMBEDDING} and {HEAD}"
    return f"{name} binds to no module of the base, which has {linears}"


def _shown(key: ModuleKey) -> str:
    target, layer = key
    return target if target in (EMBEDDING, HEAD) else f"layers.{layer}.{target}"


def _check_shapes(where: str, parts: dict[str, TensorInfo], shape: tuple[int, int]) -> list[str]:
    missing = [f"{where} has no lora_{part}" for part in "AB" if part not in parts]
    if missing:
        return missing
    a, b = parts["A"].shape, parts["B"].shape
    width_in, width_out = shape
    reasons = []
    if len(a) != 2 or a[1] != width_in:
        reasons.append(f"{where}.lora_A has shape {list(a)}; the base needs [rank, {width_in}]")
    if len(b) != 2 or b[0] != width_out:
        reasons.append(f"{where}.lora_B has shape {list(b)}; the base needs [{width_out}, rank]")
    if not reasons and a[0] != b[1]:
        reasons.append(f"{where}: lora_A has rank {a[0]} but lora_B {b[1]}")
    magnitude = parts.get("magnitude")
    if magnitude is not None and magnitude.shape != (width_out,):
        reasons.append(f"{where}.lora_magnitude_vector has shape {list(magnitude.shape)}; the base needs [{width_out}]")
    return reasons


def _check_copy(where: str, parts: dict[str, TensorInfo], shape: tuple[int, int]) -> list[str]:
    """PEFT saves the base's own table beside a LoRA on it; another one's shape tells of a resized vocabulary."""
    copy = parts.get("base")
    if copy is None or copy.shape == shape:
        return []
    return [f"{where} comes with a base of shape {list(copy.shape)}, but the base that is served has {list(shape)}"]


def _check_ranks(bound: Bound, config: LoraConfig) -> list[str]:
    reasons = []
    for key, parts in bound.items():
        a, rank = parts.get("A"), config.rank(module_name(*key))
        if config.is_ambiguous(module_name(*key)):
            reasons.append(f"two keys of rank_pattern or alpha_pattern give {_shown(key)} different values")
        elif a is not None and len(a.shape) == 2 and a.shape[0] != rank:
            said = f"adapter_config.json says {rank} (r and rank_pattern)"
            reasons.append(f"{_shown(key)} has rank {a.shape[0]} but {said}")
    return reasons


def _check_magnitudes(bound: Bound, config: LoraConfig) -> list[str]:
    """DoRA is all or nothing: `use_dora` counts for every module of an adapter."""
    wrong = [key for key, parts in bound.items() if ("magnitude" in parts) != config.is_dora]
    word = "has no lora_magnitude_vector, but use_dora is set" if config.is_dora else "has magnitudes without use_dora"
    return [f"{_shown(key)} {word}" for key in wrong]


def _check_targets(bound: Bound, config: LoraConfig, architecture: Architecture) -> list[str]:
    """Every module that the config names must be there, and no other: a file cut short would serve half an adapter."""
    unnamed, unmet = config.misnamed(module_name(*key) for key in bound)
    reasons = [f"{module} has tensors, and target_modules does not name it" for module in unnamed]
    reasons += [f"target_modules asks for {name}, which has no tensors" for name in unmet]
    found: dict[str, set[int]] = defaultdict(set)
    for target, layer in bound:
        found[target].add(layer)
    for target in sorted(config.names & set(found)) if config.covers_all_layers else ():
        lacking = sorted(set(range(architecture.target_layers(target))) - found[target])
        if lacking:
            reasons.append(f"{target} has no tensors in layers {', '.join(map(str, lacking))}")
    return reasons
