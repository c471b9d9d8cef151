"""Which tensor of an adapter's file is which matrix of which module, and whether file, config and base agree.

By names and shapes alone. All faults of one kind make one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final

from inference.adapters.config import LoraConfig
from inference.adapters.findings import Binding, Findings, Parts, dims
from inference.adapters.identity import SHARED, TensorInfo, part_of, saved_as
from inference.adapters.method_checks import check_excess, check_method, check_method_fit, check_plain, check_shared
from inference.adapters.table_checks import check_height, check_row_shapes, check_rows, check_table, check_tokens
from inference.model.architecture import Architecture, Place, layer_of
from inference.model.biases import bias_places
from inference.model.other_code import whose
from inference.model.spec import EMBEDDING, HEAD, plain_name

_EMPTY: Final = (
    "The tensors are empty: a trainer that spreads weights over processes (DeepSpeed ZeRO-3, FSDP) saved them without "
    "gathering them; save the adapter again with stage3_gather_16bit_weights_on_model_save, or from the full state dict"
)
_GELU: Final = "CA-LoRA's recovery with GELU in between is no LoRA and is not computed here; train a linear one"
_INNER: Final = ("layers.", "embed_tokens", "norm", "final_layernorm")
"""What the names of an inner model begin with, which some save without the model around it."""


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
    _check_modules(config, architecture, binding)
    if architecture is not None:
        _check_overlap(binding.modules, architecture.places, architecture, binding.misfits)
        if owner := architecture.names.whose:
            read = f"they are read as those of {architecture.name}"
            binding.remarks.add(f"Its linears have the names of {owner}", read)
    if config is not None and binding.modules:
        _check_targets(config, architecture, binding)
    if architecture is not None:
        for table, tensor in binding.tables.items():
            check_table(table, tensor, config, architecture, binding)
        _check_biases(config, architecture, binding)
        if config is not None:
            check_tokens(config, architecture, binding)
    if config is not None:
        check_rows(config.tables, binding)
        for module, tensor in binding.rows.items():
            check_row_shapes(module, tensor, config.tables, architecture, binding)
        _check_invocation(config, architecture, binding)
    return binding


def _check_modules(config: LoraConfig | None, architecture: Architecture | None, binding: Binding) -> None:
    method = config.method if config else None
    if method is not None:
        check_shared(method, binding.shared, binding.faults)
        if architecture is not None:
            check_excess(method, architecture, binding)
    for module, parts in binding.modules.items():
        if config is not None and method is not None:
            check_method(method, config.rank(module), module, parts, binding)
            if architecture is not None:
                check_method_fit(method, config.rank(module), module, architecture, binding)
        elif config is not None or parts.keys() & {"A", "B"}:
            _check_lora(module, parts, config, architecture, binding)


def _check_lora(
    module: str, parts: Parts, config: LoraConfig | None, architecture: Architecture | None, binding: Binding
) -> None:
    check_plain(module, parts, binding.faults)
    _check_shapes(module, parts, binding.faults)
    if config is not None:
        _check_module(module, parts, config, binding.faults)
    if architecture is not None:
        _check_fit(module, parts, architecture, binding)


def _paired(header: dict[str, TensorInfo]) -> Binding:
    binding = Binding()
    for name, tensor in header.items():
        if tensor.is_of_copy:
            told = "A copy of the base's own table in fewer bits lies beside, as PEFT saves it, and is not compared"
            table = name.removeprefix("base_model.model.").partition(".base_layer.")[0]
            binding.remarks.add(told, table.removesuffix(".token_adapter"))
            continue
        if saved_as(name) in header:
            continue
        if shared := SHARED.get(name):
            binding.shared[shared] = tensor
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
    if name.removesuffix(".weight").endswith(("lora_a1", "lora_a2")):
        return _GELU
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
            faults.add(f"lora_A is {dims(a)} and lora_B is {dims(b)}, but both must be matrices", module)
        elif a[0] != b[1]:
            faults.add(f"lora_A has rank {a[0]} but lora_B has rank {b[1]}", module)
    for part, name in (("magnitude", "lora_magnitude_vector"), ("shift", "lora_B.bias")):
        if part in parts and "B" in parts and parts[part].shape != parts["B"].shape[:1]:
            faults.add(f"{name} is {dims(parts[part].shape)}, not one number for each output", module)
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


def _check_fit(module: str, parts: Parts, architecture: Architecture, binding: Binding) -> None:
    name, places, misfits = architecture.name, architecture.places(module), binding.misfits
    if not places:
        return misfits.add(_unknown(module, architecture), module)
    if "base" in parts:
        check_height(module, parts["base"], architecture, binding, is_trained=True)
    width_in, width_out = architecture.target_shape(places[0].target)[0], sum(place.width for place in places)
    # A LoRA on a table that was cut to its tokens, as the copy beside it tells.
    cut = parts["base"].shape[0] if "base" in parts and parts["base"].shape else architecture.vocab_size
    width_in = min(width_in, cut) if places[0].target == EMBEDDING else width_in
    width_out = min(width_out, cut) if places[0].target == HEAD else width_out
    for side, axis, size, word in (("A", 1, width_in, "inputs"), ("B", 0, width_out, "outputs")):
        shape = parts[side].shape if side in parts else ()
        if len(shape) == 2 and shape[axis] != size:
            misfits.add(f"lora_{side} has {shape[axis]} {word} where {name} has {size}", module)
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
        elif tensor.shape != (width,) and not (module == HEAD and _fits_head(tensor, width, config)):
            binding.misfits.add(f"A bias is {dims(tensor.shape)} where {name} has {width} numbers", module)
    _check_overlap(binding.biases, places_of, architecture, binding.misfits)
    if config and config.trains_biases and not binding.biases and any(map(places_of, binding.modules)):
        binding.remarks.add("The config says that biases were trained, and the file has none", f"{name}'s are used")


def _fits_head(tensor: TensorInfo, width: int, config: LoraConfig | None) -> bool:
    """A bias may be as high as the table that it lies beside."""
    is_trained = config is not None and (config.trains_biases or HEAD in config.tables.whole)
    return len(tensor.shape) == 1 and (tensor.shape[0] < width or not is_trained)


def _check_invocation(config: LoraConfig, architecture: Architecture | None, binding: Binding) -> None:
    """What an adapter has in place of the base's own is there for every token, in PEFT too, and not from a place on."""
    if not config.invocation:
        return
    told = "An aLoRA may not train what changes the tokens before its invocation too (biases, rows of tables)"
    for module in (*binding.biases, *binding.rows, *config.tables.whole):
        binding.faults.add(told, module)
    for id in config.invocation:
        if architecture and id >= architecture.vocab_size:
            told = f"alora_invocation_tokens has tokens beyond the {architecture.vocab_size} of {architecture.name}"
            binding.misfits.add(told, str(id))


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
