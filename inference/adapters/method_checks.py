"""Whether the tensors of a method besides LoRA are those that the method has, and fit the base."""

from __future__ import annotations

from typing import Final

from inference.adapters.findings import Binding, Findings, Parts, dims
from inference.adapters.identity import SHARED, TensorInfo
from inference.adapters.methods.method import Method, Shape
from inference.adapters.methods.nola import Nola
from inference.adapters.table_checks import check_height
from inference.model.architecture import EMBEDDING, Architecture

_OF_LORA: Final = frozenset({"A", "B", "shift", "magnitude", "base"})


def check_plain(module: str, parts: Parts, faults: Findings) -> None:
    """A LoRA has no parts of other methods."""
    for part in sorted(parts.keys() - _OF_LORA):
        faults.add(f"{part} is no tensor of a LoRA, which peft_type says it is", module)


def check_method(method: Method, rank: int, module: str, parts: Parts, binding: Binding) -> None:
    """The parts of `module`, as far as the config says their shapes."""
    wanted = method.shapes(module, rank, None, None)
    for part in sorted(wanted.keys() - parts.keys()):
        binding.faults.add(f"{_shown(part)} is missing", module)
    for part in sorted(parts.keys() - wanted.keys() - {"base"}):
        binding.faults.add(f"{_shown(part)} is no tensor of {method.label} with this config", module)
    for part, shape in wanted.items():
        if part in parts:
            _check_shape(module, part, parts[part], shape, binding.faults)


def check_shared(method: Method, shared: Parts, faults: Findings) -> None:
    """The tensors of all modules, as far as the config says their shapes."""
    wanted = method.shared(None, None)
    for part in sorted(wanted.keys() - shared.keys()):
        faults.add("A tensor of all modules is missing", _file_name(part))
    for part in sorted(shared.keys() - wanted.keys()):
        faults.add(f"{method.label} has no such tensor", _file_name(part))
    for part, shape in wanted.items():
        if part in shared:
            _check_shape(_file_name(part), part, shared[part], shape, faults)


def check_method_fit(method: Method, rank: int, module: str, architecture: Architecture, binding: Binding) -> None:
    """What the base decides: `module` is one of its linears, and the shapes are those of its widths."""
    places, parts, name = architecture.places(module), binding.modules[module], architecture.name
    if not places or places[0].target == EMBEDDING:
        told = f"{method.label} is of linears" if places else f"{name} has no such module"
        return binding.misfits.add(told, module)
    if "base" in parts:
        check_height(module, parts["base"], architecture, binding, is_trained=True)
    inputs, outputs = architecture.target_shape(places[0].target)[0], sum(place.width for place in places)
    if told := method.misfit(module, inputs, outputs):
        return binding.misfits.add(f"{told} of {name}", module)
    free = method.shapes(module, rank, None, None)
    for part, shape in method.shapes(module, rank, inputs, outputs).items():
        have = parts[part].shape if part in parts else ()
        if len(have) == len(shape) and any(one is None and have[at] != shape[at] for at, one in enumerate(free[part])):
            binding.misfits.add(f"{_shown(part)} is {dims(have)}, which for {name} is {_sizes(shape)}", module)
    _check_reach(method, inputs, outputs, binding, name)
    return None


def check_excess(method: Method, architecture: Architecture, binding: Binding) -> None:
    """What is drawn anew is bounded over all modules, since no tensor bounds it."""
    if not isinstance(method, Nola):
        return
    places = [found for module in binding.modules if (found := architecture.places(module))]
    widths = [(architecture.target_shape(one[0].target)[0], sum(place.width for place in one)) for one in places]
    if told := method.excess(widths):
        binding.misfits.add(told, architecture.name)


def _check_reach(method: Method, inputs: int, outputs: int, binding: Binding, name: str) -> None:
    """Shared tensors are as large as each module needs."""
    free = method.shared(None, None)
    for part, shape in method.shared(inputs, outputs).items():
        have = binding.shared[part].shape if part in binding.shared else ()
        if len(have) == len(shape) and any(
            one is None and have[at] < (shape[at] or 0) for at, one in enumerate(free[part])
        ):
            binding.misfits.add(f"{part} is {dims(have)}, where modules of {name} need", _sizes(shape))


def _check_shape(module: str, part: str, tensor: TensorInfo, wanted: Shape, faults: Findings) -> None:
    """Sizes that are None are any but 0."""
    have = tensor.shape
    is_right = len(have) == len(wanted) and all(
        size > 0 if one is None else size == one for size, one in zip(have, wanted, strict=True)
    )
    if not is_right:
        faults.add(f"{_shown(part)} is {dims(have)}, and adapter_config.json means {_sizes(wanted)}", module)


def _sizes(shape: Shape) -> str:
    return "×".join("any" if size is None else str(size) for size in shape)


def _shown(part: str) -> str:
    return {"A": "lora_A", "B": "lora_B"}.get(part, part)


def _file_name(part: str) -> str:
    return next(name for name, own in SHARED.items() if own == part)
