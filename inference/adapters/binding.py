"""Which tensor of an adapter's file is which matrix of which module, and whether file, config and base agree.

By names and shapes alone. All faults of one kind make one sentence.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from inference.adapters.config import LoraConfig
from inference.adapters.identity import TensorInfo, part_of
from inference.model.architecture import TARGETS, Architecture, module_name

Parts = dict[str, TensorInfo]
"""The tensors of one module: A [rank, in], B [out, rank], magnitude [out], base [vocab, hidden]."""

MAX_NAME: Final = 200
SHOWN: Final = 3


class Findings:
    """Problems and the names they were found under, told in one sentence for each kind."""

    def __init__(self) -> None:
        self._names: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, problem: str, name: str) -> None:
        shown = name if name.isprintable() else ascii(name)
        self._names[problem].append(shown if len(shown) <= MAX_NAME else f"{shown[:MAX_NAME]}…")

    def sentences(self) -> list[str]:
        return [f"{problem}: {_listed(names)}." for problem, names in self._names.items()]


@dataclass(frozen=True)
class Binding:
    """The modules that an adapter changes, by their names in checkpoints, and what keeps it from being loaded.

    `faults` are wrong for any base, `misfits` only for the one whose shapes were asked for.
    """

    modules: defaultdict[str, Parts] = field(default_factory=lambda: defaultdict(dict))
    faults: Findings = field(default_factory=Findings)
    misfits: Findings = field(default_factory=Findings)


def bind(header: dict[str, TensorInfo], config: LoraConfig | None, architecture: Architecture | None) -> Binding:
    """Pair the tensors of `header` by module; what is known of `config` and of the base must say the same."""
    binding = Binding()
    _pair(header, binding)
    for module, parts in binding.modules.items():
        _check_shapes(module, parts, binding.faults)
        if config is not None:
            _check_module(module, parts, config, binding.faults)
        if architecture is not None:
            _check_fit(module, parts, architecture, binding.misfits)
    if config is not None and binding.modules:
        _check_targets(config, binding)
    if config is not None and architecture is not None:
        _check_layers(config, architecture, binding)
    return binding


def _pair(header: dict[str, TensorInfo], binding: Binding) -> None:
    for name, tensor in header.items():
        module, part = part_of(name) or ("", "")
        module = f"model.{module}" if module.startswith(("layers.", "embed_tokens")) else module
        if not part:
            binding.faults.add(_foreign(name), name)
        elif part in binding.modules[module]:
            binding.faults.add("Two tensors have the same name without PEFT's prefix", name)
        else:
            binding.modules[module][part] = tensor
    if not binding.modules:
        number = f"{len(header)} tensors, none of them a LoRA matrix"
        binding.faults.add("No module of the base is changed", number)


def _foreign(name: str) -> str:
    if "embed_tokens" in name or "lm_head" in name:
        return "Whole embeddings and heads are shared by all adapters; train a LoRA on them"
    if name.endswith(".bias"):
        return "Biases cannot be changed, the base has none"
    return "Not a LoRA matrix (….lora_A.weight or ….lora_B.weight)"


def _check_shapes(module: str, parts: Parts, faults: Findings) -> None:
    for side in "AB":
        if side not in parts:
            faults.add(f"lora_{side} is missing", module)
    if "A" in parts and "B" in parts:
        a, b = parts["A"].shape, parts["B"].shape
        if len(a) != 2 or len(b) != 2:
            faults.add(f"lora_A is {_dims(a)} and lora_B is {_dims(b)}, but both must be matrices", module)
        elif a[0] != b[1]:
            faults.add(f"lora_A has rank {a[0]} but lora_B has rank {b[1]}", module)
    if "magnitude" in parts and "B" in parts and parts["magnitude"].shape != parts["B"].shape[:1]:
        shown = _dims(parts["magnitude"].shape)
        faults.add(f"lora_magnitude_vector is {shown}, not one number for each output", module)


def _check_module(module: str, parts: Parts, config: LoraConfig, faults: Findings) -> None:
    """The rank is the config's, and DoRA is all or nothing."""
    rank = config.rank(module)
    if config.is_ambiguous(module):
        faults.add("Two keys of rank_pattern or alpha_pattern with different values mean the same module", module)
    elif "A" in parts and len(parts["A"].shape) == 2 and parts["A"].shape[0] != rank:
        faults.add(f"The rank is {parts['A'].shape[0]} but adapter_config.json says {rank}", module)
    if config.is_dora and "magnitude" not in parts:
        faults.add("use_dora is set, but lora_magnitude_vector is missing", module)
    if "magnitude" in parts and not config.is_dora:
        faults.add("DoRA magnitudes come without use_dora", module)


def _check_fit(module: str, parts: Parts, architecture: Architecture, misfits: Findings) -> None:
    name, place = architecture.name, architecture.place(module)
    if place is None:
        return misfits.add(f"{name} has no such module", module)
    width_in, width_out = architecture.target_shape(place[0])
    for side, axis, size, word in (("A", 1, width_in, "inputs"), ("B", 0, width_out, "outputs")):
        shape = parts[side].shape if side in parts else ()
        if len(shape) == 2 and shape[axis] != size:
            misfits.add(f"lora_{side} has {shape[axis]} {word} where {name} has {size}", module)
    # PEFT saves the base's own table beside a LoRA on it; another one's shape tells of a resized vocabulary.
    if "base" in parts and parts["base"].shape != (architecture.vocab_size, architecture.hidden_size):
        misfits.add(f"A base of {_dims(parts['base'].shape)} comes with it, not that of {name}", module)
    return None


def _check_targets(config: LoraConfig, binding: Binding) -> None:
    """A list of targets must name every module that has tensors, and every name must be met."""
    unnamed, unmet = config.misnamed(binding.modules)
    for module in unnamed:
        binding.faults.add("There are tensors for modules that target_modules does not name", module)
    for name in unmet:
        binding.faults.add("target_modules names modules without any tensor", name)


def _check_layers(config: LoraConfig, architecture: Architecture, binding: Binding) -> None:
    """Plain names of linears mean every layer, unless the config narrows them: a file cut short is half an adapter."""
    met = {module.rpartition(".")[2] for module in binding.modules}
    for target in TARGETS if config.covers_all_layers else ():
        for layer in range(architecture.num_layers) if target in config.names & met else ():
            if module_name(target, layer) not in binding.modules:
                binding.misfits.add(f"{target} has no tensors in these layers of {architecture.name}", str(layer))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _dims(shape: tuple[int, ...]) -> str:
    return "×".join(str(size) for size in shape) or "a single number"
