"""Reading one adapter from its two files, or refusing it with every reason at once.

Nothing is guessed and nothing skipped: an adapter is served only when each of its tensors binds to a linear
of the base and each field of its config means something that is computed here.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from inference.adapter_config import LoraConfig, check_config
from inference.architecture import TARGETS, Architecture, module_path
from inference.identity import HeaderError, TensorInfo, adapter_digest, canonical_name, read_header
from inference.layers.lora import RANK_STEP, AdapterWeights, TargetWeights

CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"
_TENSOR: Final = re.compile(r"(?:model\.)?layers\.([0-9]{1,5})\.([\w.]+)\.lora_([AB])\.weight")
_TARGET_OF: Final = {module_path(target): target for target in TARGETS}
_MAX_CONFIG_BYTES: Final = 1024 * 1024


class AdapterRefused(ValueError):
    """An adapter that cannot be served; `reasons` says everything that is wrong with it."""

    def __init__(self, reasons: list[str]) -> None:
        self.reasons = tuple(reasons)
        more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        super().__init__("; ".join(reasons[:5]) + more)


@dataclass(frozen=True)
class HostAdapter:
    """An adapter in host memory, in the decoder's type, its scaling folded into its B."""

    digest: str
    weights: AdapterWeights
    rank: int
    num_bytes: int


@dataclass
class _Pair:
    """The A [rank, in] and the B [out, rank] of one linear, as far as the file names them."""

    tensors: dict[str, TensorInfo] = field(default_factory=dict)


_Pairs = dict[tuple[str, int], _Pair]


def read_adapter(
    directory: Path, digest: str, architecture: Architecture, dtype: torch.dtype, max_rank: int
) -> HostAdapter:
    """Read the adapter in `directory`, which must have the content `digest`.

    Raises `AdapterRefused` for anything but a whole, finite LoRA over linears of `architecture` of ranks up to
    `max_rank`.
    """
    raw, weights = _read_config(directory), _inside(directory, WEIGHTS_FILE)
    try:
        header = read_header(weights)
    except (HeaderError, OSError) as error:
        raise AdapterRefused([f"{WEIGHTS_FILE}: {error}"]) from error
    config, reasons = check_config(raw, max_rank)
    pairs, problems = _bind(header, architecture)
    reasons += problems
    if config is not None:
        reasons += _check_ranks(pairs, config) + _check_targets(pairs, config, architecture)
    if config is None or reasons:
        raise AdapterRefused(reasons)
    _check_digest(raw, weights, digest)
    return _build(digest, _read_tensors(weights, pairs), config, architecture, dtype)


def _check_digest(config: dict[str, Any], weights: Path, digest: str) -> None:
    try:
        is_right = adapter_digest(config, weights) == digest
    except HeaderError:
        is_right = False  # the header was sound a moment ago, so somebody is writing to the file
    if not is_right:
        raise AdapterRefused([f"the files are not the adapter {digest[:12]}…: they were changed since it was imported"])


def _read_config(directory: Path) -> dict[str, Any]:
    path = _inside(directory, CONFIG_FILE)
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise AdapterRefused([f"{CONFIG_FILE} is larger than 1 MiB"])
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise AdapterRefused([f"{CONFIG_FILE} is not JSON: {error}"]) from error
    if not isinstance(config, dict):
        raise AdapterRefused([f"{CONFIG_FILE} is not a JSON object"])
    return config


def _inside(directory: Path, name: str) -> Path:
    """The file `name` of `directory`, and no link out of it."""
    path = (directory / name).resolve()
    if not path.is_file() or path.parent != directory.resolve():
        raise AdapterRefused([f"{name} is missing"])
    return path


def _bind(header: dict[str, TensorInfo], architecture: Architecture) -> tuple[_Pairs, list[str]]:
    """Give each tensor to a linear of the base, and say which cannot be given."""
    pairs: _Pairs = defaultdict(_Pair)
    reasons = []
    for tensor in header.values():
        match = _TENSOR.fullmatch(canonical_name(tensor.name))
        if match is None or match[2] not in _TARGET_OF or int(match[1]) >= architecture.num_layers:
            reasons.append(_unbound(tensor.name, architecture))
            continue
        pair = pairs[_TARGET_OF[match[2]], int(match[1])]
        if match[3] in pair.tensors:
            reasons.append(f"{tensor.name} comes twice under different names")
        pair.tensors[match[3]] = tensor
    if not header:
        reasons.append(f"{WEIGHTS_FILE} holds no tensors")
    for (target, layer), pair in pairs.items():
        reasons += _check_shapes(f"layers.{layer}.{target}", pair, architecture.target_shape(target))
    return pairs, reasons


def _unbound(name: str, architecture: Architecture) -> str:
    if "lm_head" in name or "embed_tokens" in name:
        return f"{name}: lm_head and embed_tokens cannot be adapted here; train on the linears of the layers only"
    if "magnitude" in name:
        return f"{name}: DoRA is not supported"
    return f"{name} binds to no linear of the base, which has {architecture.num_layers} layers of {', '.join(TARGETS)}"


def _check_shapes(where: str, pair: _Pair, shape: tuple[int, int]) -> list[str]:
    missing = [f"{where} has no lora_{side}" for side in "AB" if side not in pair.tensors]
    if missing:
        return missing
    a, b = pair.tensors["A"].shape, pair.tensors["B"].shape
    width_in, width_out = shape
    reasons = []
    if len(a) != 2 or a[1] != width_in:
        reasons.append(f"{where}.lora_A has shape {list(a)}; the base needs [rank, {width_in}]")
    if len(b) != 2 or b[0] != width_out:
        reasons.append(f"{where}.lora_B has shape {list(b)}; the base needs [{width_out}, rank]")
    if not reasons and a[0] != b[1]:
        reasons.append(f"{where}: lora_A has rank {a[0]} but lora_B {b[1]}")
    return reasons


def _check_ranks(pairs: _Pairs, config: LoraConfig) -> list[str]:
    reasons = []
    for (target, layer), pair in pairs.items():
        a, rank = pair.tensors.get("A"), config.rank(_module_name(target, layer))
        if a is not None and len(a.shape) == 2 and a.shape[0] != rank:
            where = f"layers.{layer}.{target}"
            reasons.append(f"{where} has rank {a.shape[0]} but {CONFIG_FILE} says {rank} (r and rank_pattern)")
    return reasons


def _check_targets(pairs: _Pairs, config: LoraConfig, architecture: Architecture) -> list[str]:
    """Every linear that the config asks for must be there: a file cut short would serve half an adapter."""
    found: dict[str, set[int]] = defaultdict(set)
    for target, layer in pairs:
        found[target].add(layer)
    reasons = [f"target_modules asks for {target}, which has no tensors" for target in config.targets - set(found)]
    if config.covers_all_layers:
        for target in sorted(config.targets & set(found)):
            lacking = sorted(set(range(architecture.num_layers)) - found[target])
            if lacking:
                reasons.append(f"{target} has no tensors in layers {', '.join(map(str, lacking))}")
    return reasons


def _read_tensors(weights: Path, pairs: _Pairs) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
    """All pairs in float32; raises `AdapterRefused` for values that are not finite."""
    read, reasons = {}, []
    try:
        with safe_open(weights, framework="pt") as file:
            for key, pair in pairs.items():
                a, b = (file.get_tensor(pair.tensors[side].name).to(torch.float32) for side in "AB")
                reasons += [
                    f"{pair.tensors[side].name} holds values that are not finite"
                    for side, tensor in (("A", a), ("B", b))
                    if not torch.isfinite(tensor).all()
                ]
                read[key] = a, b
    except (SafetensorError, OSError) as error:
        raise AdapterRefused([f"{WEIGHTS_FILE} cannot be read: {error}"]) from error
    if reasons:
        raise AdapterRefused(reasons)
    return read


def _build(
    digest: str,
    tensors: dict[tuple[str, int], tuple[Tensor, Tensor]],
    config: LoraConfig,
    architecture: Architecture,
    dtype: torch.dtype,
) -> HostAdapter:
    weights: AdapterWeights = {}
    for target in sorted({target for target, _ in tensors}):
        layers = {layer: pair for (name, layer), pair in tensors.items() if name == target}
        weights[target] = _stack(target, layers, config, architecture, dtype)
    if not all(torch.isfinite(pair.a).all() and torch.isfinite(pair.b).all() for pair in weights.values()):
        raise AdapterRefused([f"the adapter's values overflow {dtype} once scaled; lower lora_alpha"])
    rank = max(a.shape[0] for a, _ in tensors.values())
    return HostAdapter(digest, weights, rank, sum(pair.num_bytes for pair in weights.values()))


def _stack(
    target: str,
    layers: dict[int, tuple[Tensor, Tensor]],
    config: LoraConfig,
    architecture: Architecture,
    dtype: torch.dtype,
) -> TargetWeights:
    """The pairs of all layers as two tensors, ranks padded with zeros to the largest, rounded up."""
    rank = math.ceil(max(a.shape[0] for a, _ in layers.values()) / RANK_STEP) * RANK_STEP
    width_in, width_out = architecture.target_shape(target)
    stacked_a = torch.zeros(architecture.num_layers, width_in, rank, dtype=dtype)
    stacked_b = torch.zeros(architecture.num_layers, rank, width_out, dtype=dtype)
    for layer, (a, b) in layers.items():
        scaling = config.scaling(_module_name(target, layer))
        stacked_a[layer, :, : a.shape[0]] = a.t()
        stacked_b[layer, : a.shape[0]] = b.t() * scaling
    return TargetWeights(stacked_a, stacked_b)


def _module_name(target: str, layer: int) -> str:
    return f"model.layers.{layer}.{module_path(target)}"
