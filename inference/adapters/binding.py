"""Which tensor of an adapter's file is which matrix of which module, and whether file, config and base agree.

By names and shapes alone. All faults of one kind make one sentence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from inference.adapters.config import LoraConfig
from inference.adapters.identity import TensorInfo, part_of
from inference.adapters.tables import INDICES, WHOLE, TrainedTables, table_of
from inference.model.architecture import Architecture, Place, layer_of
from inference.model.biases import bias_places
from inference.model.other_code import whose
from inference.model.spec import plain_name

Parts = dict[str, TensorInfo]
"""The tensors of one module: A [rank, in], B [out, rank], its bias, the shift [out], magnitude [out], base [vocab,
hidden], bias [out], rows [n, hidden]."""

_EMPTY: Final = (
    "The tensors are empty: a trainer that spreads weights over processes (DeepSpeed ZeRO-3, FSDP) saved them without "
    "gathering them; save the adapter again with stage3_gather_16bit_weights_on_model_save, or from the full state dict"
)
_INNER: Final = ("layers.", "embed_tokens", "norm", "final_layernorm")
"""What the names of an inner model begin with, which some save without the model around it."""
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
        return [f"{problem}: {_listed(list(dict.fromkeys(names)))}." for problem, names in self._names.items()]


@dataclass(frozen=True)
class Binding:
    """The modules that an adapter changes, by their names in checkpoints, and what keeps it from being loaded.

    `faults` are wrong for any base, `misfits` only for the one whose shapes were asked for; `remarks` keep nothing from
    it, and its owner should know them.
    """

    modules: defaultdict[str, Parts] = field(default_factory=lambda: defaultdict(dict))
    faults: Findings = field(default_factory=Findings)
    misfits: Findings = field(default_factory=Findings)
    remarks: Findings = field(default_factory=Findings)
    tables: Parts = field(default_factory=dict)
    """Whole tables, by their modules, that lie beside a LoRA on something else."""
    biases: Parts = field(default_factory=dict)
    """Biases in place of the base's, by their modules."""
    rows: Parts = field(default_factory=dict)
    """Trained rows of tables, by their modules."""
    architecture: Architecture | None = None
    """The base in the names of whose code the adapter was trained on."""


def bind(header: dict[str, TensorInfo], config: LoraConfig | None, architecture: Architecture | None) -> Binding:
    """Pair the tensors of `header` by module; what is known of `config` and of the base must say the same."""
    binding = _paired(header)
    if architecture is not None:
        architecture = architecture.spelled_for(binding.modules)
        binding = replace(binding, architecture=architecture)
        config = config and config.on(architecture)
    has_tables = bool(binding.rows) or (config is not None and bool(config.tables.whole))
    if not binding.modules and not has_tables:
        number = f"{len(header)} tensors, none of them a LoRA matrix"
        binding.faults.add("No module of the base is changed", number)
    for module, parts in binding.modules.items():
        _check_shapes(module, parts, binding.faults)
        if config is not None:
            _check_module(module, parts, config, binding.faults)
        if architecture is not None:
            _check_fit(module, parts, architecture, binding.misfits)
    if architecture is not None:
        _check_overlap(binding.modules, architecture.places, architecture, binding.misfits)
        if owner := architecture.names.whose:
            read = f"they are read as those of {architecture.name}"
            binding.remarks.add(f"Its linears have the names of {owner}", read)
    if config is not None and binding.modules:
        _check_targets(config, architecture, binding)
    for table, tensor in binding.tables.items():
        _check_table(table, tensor, architecture, binding)
    if architecture is not None:
        _check_biases(config, architecture, binding)
    if config is not None:
        _check_rows(config.tables, binding)
        for module, tensor in binding.rows.items():
            _check_row_shapes(module, tensor, config.tables, architecture, binding)
    return binding


def _paired(header: dict[str, TensorInfo]) -> Binding:
    binding = Binding()
    for name, tensor in header.items():
        if tensor.is_of_copy:
            told = "A copy of the base's own table in fewer bits lies beside, as PEFT saves it, and is not compared"
            binding.remarks.add(told, name.removeprefix("base_model.model.").partition(".base_layer.")[0])
            continue
        module, part = part_of(name) or ("", "")
        module = plain_name(module)
        module = f"model.{module}" if module.startswith(_INNER) else module
        if not part:
            binding.faults.add(_foreign(name), name)
        elif part in binding.modules[module]:
            binding.faults.add("Two tensors have the same name without PEFT's prefix", name)
        else:
            binding.modules[module][part] = tensor
    for module, parts in list(binding.modules.items()):
        if "rows" in parts:
            binding.rows[module] = parts.pop("rows")
        if "bias" in parts:
            binding.biases[module] = parts.pop("bias")
        if parts.keys() == {"base"}:
            binding.tables[module] = parts.pop("base")
        if not parts:
            del binding.modules[module]
    return binding


def _foreign(name: str) -> str:
    if "embed_tokens" in name or "lm_head" in name:
        return "Whole embeddings and heads are shared by all adapters; train a LoRA on them"
    return "Not a LoRA matrix (….lora_A.weight or ….lora_B.weight)"


def _check_shapes(module: str, parts: Parts, faults: Findings) -> None:
    for side in "AB":
        if side not in parts:
            faults.add(f"lora_{side} is missing", module)
    if any(0 in tensor.shape for tensor in parts.values()):
        return faults.add(_EMPTY, module)
    if "A" in parts and "B" in parts:
        a, b = parts["A"].shape, parts["B"].shape
        if len(a) != 2 or len(b) != 2:
            faults.add(f"lora_A is {_dims(a)} and lora_B is {_dims(b)}, but both must be matrices", module)
        elif a[0] != b[1]:
            faults.add(f"lora_A has rank {a[0]} but lora_B has rank {b[1]}", module)
    for part, name in (("magnitude", "lora_magnitude_vector"), ("shift", "lora_B.bias")):
        if part in parts and "B" in parts and parts[part].shape != parts["B"].shape[:1]:
            faults.add(f"{name} is {_dims(parts[part].shape)}, not one number for each output", module)
    return None


def _check_module(module: str, parts: Parts, config: LoraConfig, faults: Findings) -> None:
    """The rank is the config's, and DoRA and lora_bias are all or nothing."""
    rank = config.rank(module)
    if "A" in parts and len(parts["A"].shape) == 2 and parts["A"].shape[0] not in (0, rank):
        faults.add(f"The rank is {parts['A'].shape[0]} but adapter_config.json says {rank}", module)
    if config.is_dora and "magnitude" not in parts:
        faults.add("use_dora is set, but lora_magnitude_vector is missing", module)
    if "magnitude" in parts and not config.is_dora:
        faults.add("DoRA magnitudes come without use_dora", module)
    if config.has_shifts and "shift" not in parts:
        faults.add("lora_bias is set, but lora_B.bias is missing", module)
    if "shift" in parts and not config.has_shifts:
        faults.add("lora_B.bias comes without lora_bias", module)


def _check_fit(module: str, parts: Parts, architecture: Architecture, misfits: Findings) -> None:
    name, places = architecture.name, architecture.places(module)
    if not places:
        return misfits.add(_unknown(module, architecture), module)
    width_in, width_out = architecture.target_shape(places[0].target)[0], sum(place.width for place in places)
    for side, axis, size, word in (("A", 1, width_in, "inputs"), ("B", 0, width_out, "outputs")):
        shape = parts[side].shape if side in parts else ()
        if len(shape) == 2 and shape[axis] != size:
            misfits.add(f"lora_{side} has {shape[axis]} {word} where {name} has {size}", module)
    if "base" in parts:
        _check_height(module, parts["base"], architecture, misfits)
    return None


def _unknown(module: str, architecture: Architecture) -> str:
    owner, _ = whose(module)
    return f"{architecture.name} has no such module" + (f", whose name is of {owner}" if owner else "")


def _check_overlap(
    modules: Iterable[str], places: Callable[[str], tuple[Place, ...]], architecture: Architecture, misfits: Findings
) -> None:
    """A fused linear and its parts are the same outputs under two names."""
    owners: dict[tuple[str, int], str] = {}
    for module in modules:
        for place in places(module):
            if (place.target, place.layer) in owners:
                other = owners[place.target, place.layer]
                return misfits.add(f"Two modules are the same outputs of {architecture.name}", f"{other}, {module}")
            owners[place.target, place.layer] = module
    return None


def _check_table(module: str, tensor: TensorInfo, architecture: Architecture | None, binding: Binding) -> None:
    """A whole table beside a LoRA. PEFT saves the base's own, whose numbers are the worker's to compare."""
    if architecture is None:
        return
    if not architecture.places(module):
        binding.misfits.add(f"{architecture.name} has no such module", module)
    else:
        _check_height(module, tensor, architecture, binding.misfits)


def _check_biases(config: LoraConfig | None, architecture: Architecture, binding: Binding) -> None:
    """Each is of a module that has one; of those that were trained and are not there, the base's are taken."""
    name, places_of = architecture.name, partial(bias_places, architecture)
    for module, tensor in binding.biases.items():
        places = places_of(module)
        width = sum(place.width for place in places)
        if not places:
            binding.misfits.add(f"{name} has no bias there", module)
        elif 0 in tensor.shape:
            binding.faults.add(_EMPTY, module)
        elif tensor.shape != (width,):
            binding.misfits.add(f"A bias is {_dims(tensor.shape)} where {name} has {width} numbers", module)
    _check_overlap(binding.biases, places_of, architecture, binding.misfits)
    if config and config.trains_biases and not binding.biases and any(map(places_of, binding.modules)):
        binding.remarks.add("The config says that biases were trained, and the file has none", f"{name}'s are used")


def _check_rows(trained: TrainedTables, binding: Binding) -> None:
    """The tables of which rows were trained, or all, are in the file, and no LoRA was trained beside."""
    has_rows, has_all = (set(map(table_of, parts)) for parts in (binding.rows, binding.tables))
    for problem, missing in (
        (f"{INDICES} names a table whose rows are not in the file", set(trained.saved) - has_rows),
        (f"{WHOLE} names a table that is not in the file", set(trained.whole) - has_all),
    ):
        for table in sorted(missing):
            binding.faults.add(problem, table)
    for module in binding.modules:
        if table_of(module) in {*trained.rows, *trained.whole}:
            binding.faults.add("Its rows were trained beside a LoRA on it; train one of the two", module)


def _check_row_shapes(
    module: str, tensor: TensorInfo, trained: TrainedTables, architecture: Architecture | None, binding: Binding
) -> None:
    ids = trained.rows.get(table_of(module), ())
    if len(tensor.shape) != 2 or not ids or tensor.shape[0] != len(ids):
        shown = f"{_dims(tensor.shape)} for {len(ids)} tokens of {INDICES}"
        return binding.faults.add(f"The trained rows are {shown}", module)
    if architecture is None:
        return None
    name, height, width = architecture.name, architecture.vocab_size, architecture.hidden_size
    if not architecture.places(module):
        return binding.misfits.add(f"{name} has no such module", module)
    if tensor.shape[1] != width:
        binding.misfits.add(f"The trained rows have {tensor.shape[1]} numbers where {name} has {width}", module)
    if beyond := [id for id in ids if id >= height]:
        sentence = f"{INDICES} names {len(beyond)} tokens that {name} does not have, the last of which is {height - 1}"
        binding.misfits.add(f"{sentence}; train tokens that it has", module)
    return None


def _check_height(module: str, tensor: TensorInfo, architecture: Architecture, misfits: Findings) -> None:
    """PEFT saves the base's own table; another one's shape tells of a vocabulary that was changed."""
    height, width = architecture.vocab_size, architecture.hidden_size
    if tensor.shape == (height, width):
        return
    if len(tensor.shape) == 2 and tensor.shape[1] == width:
        by = abs(tensor.shape[0] - height)
        way = "enlarged" if tensor.shape[0] > height else "cut"
        misfits.add(
            f"The vocabulary was {way} by {by} tokens, and all adapters share that of {architecture.name}. Train on "
            "tokens that it has, whose rows may be the adapter's own (trainable_token_indices)",
            module,
        )
    else:
        misfits.add(f"A table of {_dims(tensor.shape)} comes with it, not that of {architecture.name}", module)


def _check_targets(config: LoraConfig, architecture: Architecture | None, binding: Binding) -> None:
    """What the config means has tensors, and what has tensors is meant: a file cut short is half an adapter."""
    targets, bound = config.targets, binding.modules.keys()
    for module in bound:
        if not targets.mean(module):
            binding.faults.add("There are tensors for modules that target_modules does not name", module)
    if architecture is None:
        return
    modules = list(architecture.modules(bound))
    wanted = [module for module in modules if targets.mean(module)]
    lacking = [module for module in wanted if module not in bound]
    met = {name for module in bound for name in targets.names_of(module)}
    unmet = {name for module in lacking for name in targets.names_of(module)} - met
    for name in sorted(unmet):
        binding.misfits.add("target_modules names modules without any tensor", name)
    for module in lacking:
        if not unmet.intersection(targets.names_of(module)):
            name, layer = module.rpartition(".")[2], layer_of(module)
            binding.misfits.add(f"{name} has no tensors in these layers of {architecture.name}", layer or module)
    if targets.pattern and not wanted:
        binding.misfits.add(f"target_modules matches no module of {architecture.name}", targets.pattern)
    known = {name for module in modules for name in targets.names_of(module)}
    for name in sorted(set(targets.names) - known):
        problem = f"target_modules names what {architecture.name} does not have, which changes nothing"
        binding.remarks.add(problem, name)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _dims(shape: tuple[int, ...]) -> str:
    return "×".join(str(size) for size in shape) or "a single number"
