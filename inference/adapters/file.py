"""Reading one adapter from its two files, or refusing it with every reason at once.

Nothing is guessed and nothing skipped: an adapter is served only when each of its tensors binds to a module
of the base and each field of its config means something that is computed here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import Tensor

from inference.adapters.biases import Biases, read_biases
from inference.adapters.config import LoraConfig
from inference.adapters.examination import CONFIG, WEIGHTS, Examination, examine_files
from inference.adapters.expansion import expand, read_parts, widths
from inference.adapters.findings import Parts
from inference.adapters.identity import HeaderError, adapter_digest
from inference.adapters.packed_lora import pack_adapter
from inference.adapters.rows import TooManyRows, read_pairs
from inference.adapters.tables import table_of
from inference.adapters.uniform import read_uniform
from inference.adapters.weights import RANK_STEP, AdapterWeights, TargetWeights
from inference.model.architecture import EMBEDDING, Architecture, Place
from inference.reading import reading

ROUNDING: Final = {False: 0.005, True: 0.25}
"""By what part of its length a row may be moved by rounding to 16 bits, or to the fewer that a base may be in; 4 bits
move it by a tenth. Another model's rows are as far away as they are long."""


class AdapterRefused(ValueError):
    """An adapter that cannot be served; `reasons` says everything that is wrong with it."""

    def __init__(self, reasons: list[str]) -> None:
        self.reasons = tuple(reasons)
        more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        super().__init__("; ".join(reason.removesuffix(".") for reason in reasons[:5]) + more)


@dataclass(frozen=True)
class Base:
    """What an adapter is read for: the base's shape, the type that it is served in, and its weights for whom it takes.

    `weight` reads the weight of a target in a layer in float32, [out, in] for linears and [vocab, hidden] for the
    embedding, rounded to `dtype` as the decoder has it; `bias` likewise that of a linear or a norm, [out], zeros for
    one without. `identity` names the weights. `is_nf4`: they are served in 4 bits, of which nobody knows the norms.
    `is_packed`: by the native decoder, which wants adapters packed. `is_in_fewer_bits` tells of a table whether
    `weight` gives it as a checkpoint in fewer bits has it.
    """

    architecture: Architecture
    dtype: torch.dtype
    weight: Callable[[str, int], Tensor]
    bias: Callable[[str, int], Tensor]
    identity: str
    is_nf4: bool = False
    is_packed: bool = False
    is_in_fewer_bits: Callable[[str], bool] = lambda target: False


@dataclass(frozen=True)
class HostAdapter:
    """An adapter in host memory, in the decoder's type and order, its scaling folded into its B."""

    digest: str
    weights: AdapterWeights
    rank: int
    num_bytes: int
    is_activated: bool = False
    """Whether it is active from its invocation on, and not always (`inference.adapters.invocation`)."""


def read_adapter(directory: Path, digest: str, base: Base, max_rank: int) -> HostAdapter:
    """Read the adapter in `directory`, which must have the content `digest`.

    Raises `AdapterRefused` for anything but a whole, finite LoRA or DoRA over modules of `base` of ranks up to
    `max_rank`.
    """
    found = _examine(directory, digest, base, max_rank)
    config, weights = found.meaning, inside(directory, WEIGHTS)
    base = replace(base, architecture=found.architecture or base.architecture)
    assert config is not None, "what the examination lets through has a meaning"
    with reading(WEIGHTS, lambda reason: AdapterRefused([reason]), RuntimeError):
        pairs = read_uniform(weights, found, config, base.architecture, base.dtype)
    if pairs:
        return _finished(digest, pairs, max(pair.rank for pair in pairs.values()), base)
    # RuntimeError is what torch raises for a device that fails or is full.
    with reading(WEIGHTS, lambda reason: AdapterRefused([reason]), RuntimeError):
        whole = {module: info for module, info in found.tables.items() if table_of(module) in config.tables.whole}
        _check_tables(weights, {name: info for name, info in found.tables.items() if name not in whole}, base)
        biases = read_biases(weights, found.biases, found.rows, base.architecture, base.bias, base.dtype)
        tensors = _read_tensors(weights, found, config, base.architecture)
        for target, pair in _read_rows(weights, found.rows, whole, config, base, max_rank).items():
            tensors[target] = {0: _Module(base.architecture.module_name(target, 0), pair, 1.0)}
    if not tensors and not biases:
        raise AdapterRefused(["the adapter changes nothing: the tables that it trained are the base's own"])
    return _build(digest, tensors, biases, config, base)


def _read_rows(
    weights: Path, rows: Parts, tables: Parts, config: LoraConfig, base: Base, max_rank: int
) -> dict[str, _Tensors]:
    def own(target: str) -> Tensor:
        return base.weight(target, 0)

    try:
        return read_pairs(weights, rows, tables, config.tables, base.architecture, own, base.dtype, max_rank)
    except TooManyRows as error:
        if not base.is_in_fewer_bits(error.target):
            raise AdapterRefused([str(error)]) from error
        told = f"the table of {error.target} is in fewer bits here, so that its rows that were trained cannot be told"
        instead = "serve the base in full, or train rows by their tokens (trainable_token_indices) or a LoRA on it"
        raise AdapterRefused([f"{told} from those that were rounded; {instead}"]) from error


def _examine(directory: Path, digest: str, base: Base, max_rank: int) -> Examination:
    """What the config means, and the tensors of each module by their place in the file."""
    weights = inside(directory, WEIGHTS)
    found = examine_files(inside(directory, CONFIG), weights, base.architecture, max_rank)
    if found.reasons or found.meaning is None:
        raise AdapterRefused(found.reasons)
    _check_digest(found.config, weights, digest)
    return found


def _check_digest(config: dict[str, Any], weights: Path, digest: str) -> None:
    try:
        is_right = adapter_digest(config, weights) == digest
    except HeaderError:
        is_right = False  # the header was sound a moment ago, so somebody is writing to the file
    if not is_right:
        raise AdapterRefused([f"the files are not the adapter {digest[:12]}…: they were changed since it was imported"])


def inside(directory: Path, name: str) -> Path:
    """The file `name` of `directory`, and no link out of it."""
    path = (directory / name).resolve()
    if not path.is_file() or path.parent != directory.resolve():
        raise AdapterRefused([f"{name} is missing"])
    return path


_Tensors = dict[str, Tensor]
"""The parts of one module, in float32."""
_BY_OUTPUT: Final = ("B", "shift", "magnitude")
"""Those of which each row is an output's."""
_OF_PAIRS: Final = ("A", *_BY_OUTPUT, "base")


@dataclass(frozen=True)
class _Module:
    """A module that an adapter changes, by the name that its file has for it, or a target's share of a fused one."""

    name: str
    tensors: _Tensors
    scaling: float | None = None
    """What its update is multiplied by, where the config does not say."""

    @property
    def rank(self) -> int:
        return self.tensors["A"].shape[0]


def _read_tensors(
    weights: Path, found: Examination, config: LoraConfig, architecture: Architecture
) -> dict[str, dict[int, _Module]]:
    """All modules, which are the base's, by target and layer; as pairs, of whatever method they are."""
    read: dict[str, dict[int, _Module]] = defaultdict(dict)
    with safe_open(weights, framework="pt") as file:
        shared = read_parts(file, found.shared)
        for module, parts in found.modules.items():
            places = architecture.places(module)
            assert places, "what the examination lets through is of the base"
            tensors = read_parts(file, parts)
            if config.method is not None:
                tensors |= expand(config.method, module, tensors | shared, *widths(architecture, module))
            for place in places:
                read[place.target][place.layer] = _Module(module, _share(tensors, place))
    return read


def _share(tensors: _Tensors, place: Place) -> _Tensors:
    """What of a module's `tensors` is of `place`: all of A, which its outputs share, and the rows of these."""
    return {
        part: tensors[part][place.outputs] if part in _BY_OUTPUT else tensors[part]
        for part in _OF_PAIRS
        if part in tensors
    }


def _build(
    digest: str, tensors: dict[str, dict[int, _Module]], biases: Biases, config: LoraConfig, base: Base
) -> HostAdapter:
    weights: AdapterWeights = {}
    for target in sorted({*tensors, *biases}):
        layers = tensors.get(target, {})
        for layer, module in layers.items():
            _check_copy(target, layer, module.tensors, base)
        weights[target] = _stack(target, layers, biases.get(target, {}), config, base)
    rank = max((module.rank for layers in tensors.values() for module in layers.values()), default=0)
    return _finished(digest, weights, rank, base)


def _finished(digest: str, weights: AdapterWeights, rank: int, base: Base) -> HostAdapter:
    """The adapter of `weights`, which are all finite, in the layout that `base` is computed with."""
    if not all(_is_finite(part) for pair in weights.values() for part in pair.parts.values()):
        raise AdapterRefused([f"the adapter's values overflow {base.dtype} once scaled; lower lora_alpha"])
    weights = pack_adapter(weights) if base.is_packed else _contiguous(weights)
    return HostAdapter(digest, weights, rank, sum(pair.num_bytes for pair in weights.values()))


def _is_finite(part: Tensor) -> bool:
    """By its extremes, which NaN and infinity show in: torch is far faster at them than at looking for these."""
    return not part.numel() or all(map(math.isfinite, map(float, part.aminmax())))


def _contiguous(weights: AdapterWeights) -> AdapterWeights:
    return {target: replace(pair, a=pair.a.contiguous(), b=pair.b.contiguous()) for target, pair in weights.items()}


def _stack(
    target: str, layers: dict[int, _Module], biases: dict[int, Tensor], config: LoraConfig, base: Base
) -> TargetWeights:
    """The pairs of all layers as two tensors, ranks padded with zeros to the largest, rounded up, and tables that were
    cut to the base's."""
    rank = math.ceil(max((module.rank for module in layers.values()), default=0) / RANK_STEP) * RANK_STEP
    (width_in, width_out), num_layers = base.architecture.target_shape(target), base.architecture.target_layers(target)
    stacked_a = torch.zeros(num_layers, width_in, rank, dtype=base.dtype)
    stacked_b = torch.zeros(num_layers, rank, width_out, dtype=base.dtype)
    scale = torch.ones(num_layers, width_out) if config.is_dora and layers else None
    bias = torch.zeros(num_layers, width_out) if biases or config.has_shifts else None
    for layer, module in layers.items():
        scaling = config.scaling(module.name) if module.scaling is None else module.scaling
        a, b = module.tensors["A"], module.tensors["B"]
        stacked_a[layer, : a.shape[1], : module.rank] = a.t()
        stacked_b[layer, : module.rank, : len(b)] = b.t() * scaling
        if scale is not None and "magnitude" in module.tensors:
            scale[layer, : len(b)] = _scale(target, layer, module, scaling, base)
        if bias is not None and "shift" in module.tensors:
            bias[layer, : len(b)] = module.tensors["shift"] * scaling
    for layer, change in biases.items():
        assert bias is not None, "there are biases"
        bias[layer] += change
    return TargetWeights(stacked_a, stacked_b, scale, bias)


def _scale(target: str, layer: int, module: _Module, scaling: float, base: Base) -> Tensor:
    """What DoRA multiplies each output of a module with: its magnitude over the norm of W + scaling * B A."""
    if base.is_nf4:
        raise AdapterRefused(["DoRA needs the norms of the base's weights, which are in NF4 here (QUANTIZATION)"])
    weight, parts = base.weight(target, layer), module.tensors
    weight = (weight.t() if target == EMBEDDING else weight)[: len(parts["B"]), : parts["A"].shape[1]]
    norm = torch.linalg.norm(weight + scaling * (parts["B"] @ parts["A"]), dim=1)
    scale: Tensor = parts["magnitude"] / norm
    if not torch.isfinite(scale).all():
        raise AdapterRefused([f"DoRA cannot scale {module.name}: some of its adapted weights are all 0"])
    return scale


def _check_tables(weights: Path, tables: Parts, base: Base) -> None:
    """Whole tables beside a LoRA on something else."""
    with safe_open(weights, framework="pt") as file:
        for module, info in tables.items():
            (place,) = base.architecture.places(module)
            _check_copy(place.target, place.layer, {"base": file.get_tensor(info.name).to(torch.float32)}, base)


def _check_copy(target: str, layer: int, parts: _Tensors, base: Base) -> None:
    """A table that PEFT saves beside a LoRA must be the base's own, since ours is what is served."""
    if "base" not in parts:
        return
    where = f"the table of {base.architecture.module_name(target, layer)}"
    if changed := _changed_rows(parts["base"].to(base.dtype).float(), base.weight(target, layer), target, base):
        count = f"is not the base's own: {changed} of its rows differ"
        raise AdapterRefused([f"{where} {count}, and all adapters share one; train a LoRA on it"])


def _changed_rows(copy: Tensor, own: Tensor, target: str, base: Base) -> int:
    """How many rows of a copy are not the base's, but for rounding, of those that both have."""
    rows = min(len(copy), len(own))
    copy, own = copy[:rows], own[:rows]
    if torch.equal(copy, own):
        return 0
    bound = ROUNDING[base.is_in_fewer_bits(target)]
    return int(((copy - own).norm(dim=1) > bound * torch.maximum(copy.norm(dim=1), own.norm(dim=1))).sum())
