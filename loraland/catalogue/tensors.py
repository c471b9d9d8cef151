"""Whether the tensors of an adapter belong to its base: names, pairs, ranks, shapes and finite values.

Pure Python over the header and the raw bytes, so the site needs no numpy and no torch to refuse a file.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

from django.conf import settings

from inference.adapters.config import LoraConfig
from inference.adapters.identity import DTYPE_BYTES, HeaderError, TensorInfo, part_of, read_header
from loraland.catalogue.base_shapes import TARGETS, BaseShapes

EXPONENTS: Final = {"F64": 0x7FF0 << 48, "F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}
"""The exponent bits of each type: all of them are set in NaN and infinity, and in nothing else."""

CHUNK_BYTES: Final = 64 * 1024
MAX_NAME: Final = 200
SHOWN: Final = 3
FOREIGN: Final = (
    (b"PK\x03\x04", "a PyTorch pickle (a zip archive)"),
    (b"\x80", "a Python pickle"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
)


class Findings:
    """Problems and the names they were found under, told in one sentence for each kind."""

    def __init__(self) -> None:
        self._names: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, problem: str, name: str) -> None:
        shown = name if name.isprintable() else ascii(name)
        self._names[problem].append(shown if len(shown) <= MAX_NAME else f"{shown[:MAX_NAME]}…")

    def sentences(self) -> list[str]:
        return [f"{problem}: {_listed(names)}." for problem, names in self._names.items()]


@dataclass
class Binding:
    """The modules that an adapter changes, with their ranks, and what keeps it from being loaded.

    `faults` are wrong for any base, `misfits` only for the base whose shapes were asked for.
    """

    ranks: dict[str, int] = field(default_factory=dict)
    faults: Findings = field(default_factory=Findings)
    misfits: Findings = field(default_factory=Findings)

    @property
    def targets(self) -> list[str]:
        return sorted({module.rsplit(".", 1)[-1] for module in self.ranks})


def read_tensors(path: Path) -> tuple[dict[str, TensorInfo], list[str]]:
    """The header of the safetensors file at `path` and the reason to refuse it, if there is one."""
    with path.open("rb") as file:
        start = file.read(4)
    for magic, kind in FOREIGN:
        if start.startswith(magic) and not _starts_header(path):
            return {}, [f"adapter_model.safetensors is {kind} under another name; save it as safetensors."]
    try:
        return read_header(path), []
    except HeaderError as error:
        return {}, [f"adapter_model.safetensors is damaged: {str(error)[:500]}."]


def bind(header: dict[str, TensorInfo], meaning: LoraConfig | None, shapes: BaseShapes | None) -> Binding:
    """Pair the tensors of `header` by module and hold them against the base's `shapes`, where they are known.

    A config that has a `meaning` must say the same as the tensors.
    """
    binding = Binding()
    for module, parts in _parts(header, binding.faults).items():
        _check_pair(module, parts, meaning, binding)
        _check_magnitude(module, parts, meaning, binding.faults)
        if shapes is not None:
            _check_fit(module, parts, shapes, binding.misfits)
    if meaning is not None:
        _check_targets(meaning, binding)
    if meaning is not None and shapes is not None:
        _check_layers(meaning, shapes, binding)
    return binding


def non_finite(path: Path, header: dict[str, TensorInfo]) -> list[str]:
    """The names of the tensors in `path` that hold NaN or infinity."""
    with path.open("rb") as file:
        start = 8 + struct.unpack("<Q", file.read(8))[0]
        found = []
        for tensor in header.values():
            file.seek(start + tensor.begin)
            chunks = (file.read(size) for size in _chunk_sizes(tensor.end - tensor.begin))
            if not all(_is_finite(chunk, tensor.dtype) for chunk in chunks):
                found.append(tensor.name)
    return found


def _starts_header(path: Path) -> bool:
    """Whether the file opens with a plausible length and a JSON object, whatever its first bytes look like."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] < path.stat().st_size


def _parts(header: dict[str, TensorInfo], faults: Findings) -> dict[str, dict[str, TensorInfo]]:
    """The tensors by module and by part (`inference.adapters.identity.PARTS`)."""
    parts: defaultdict[str, dict[str, TensorInfo]] = defaultdict(dict)
    for name, tensor in header.items():
        module, part = part_of(name) or ("", "")
        if not part or len(name) > MAX_NAME:
            faults.add(_foreign(name), name)
        elif part in parts[module]:
            faults.add("Two tensors have the same name without PEFT's prefix", name)
        else:
            parts[module][part] = tensor
    if not parts:
        faults.add("No module of the base is changed", f"{len(header)} tensors, none of them a LoRA matrix")
    return parts


def _foreign(name: str) -> str:
    if "embed_tokens" in name or "lm_head" in name:
        return "Whole embeddings and heads are shared by all adapters; train a LoRA on them"
    if name.endswith(".bias"):
        return "Biases cannot be changed, the base has none"
    return "Not a LoRA matrix (….lora_A.weight or ….lora_B.weight)"


def _check_pair(module: str, pair: dict[str, TensorInfo], meaning: LoraConfig | None, binding: Binding) -> None:
    faults = binding.faults
    if missing := {"A", "B"} - pair.keys():
        return faults.add(f"lora_{missing.pop()} is missing beside its other half", module)
    a, b = pair["A"].shape, pair["B"].shape
    if len(a) != 2 or len(b) != 2:
        return faults.add(f"lora_A is {_dims(a)} and lora_B is {_dims(b)}, but both must be matrices", module)
    if a[0] != b[1]:
        return faults.add(f"lora_A has rank {a[0]} but lora_B has rank {b[1]}", module)
    binding.ranks[module] = a[0]
    if not 1 <= a[0] <= settings.MAX_RANK:
        faults.add(f"The rank is {a[0]}; this site serves ranks from 1 to {settings.MAX_RANK}", module)
    if meaning is not None and meaning.is_ambiguous(module):
        faults.add("Two keys of rank_pattern or alpha_pattern with different values mean the same module", module)
    elif meaning is not None and a[0] != meaning.rank(module):
        faults.add(f"The rank is {a[0]} but adapter_config.json says {meaning.rank(module)}", module)
    return None


def _check_magnitude(module: str, parts: dict[str, TensorInfo], meaning: LoraConfig | None, faults: Findings) -> None:
    """DoRA is all or nothing, and its magnitudes are one for each output."""
    magnitude = parts.get("magnitude")
    if magnitude is None and meaning is not None and meaning.is_dora:
        faults.add("use_dora is set, but lora_magnitude_vector is missing", module)
    elif magnitude is not None and meaning is not None and not meaning.is_dora:
        faults.add("DoRA magnitudes come without use_dora", module)
    elif magnitude is not None and "B" in parts and magnitude.shape != parts["B"].shape[:1]:
        faults.add(f"lora_magnitude_vector is {_dims(magnitude.shape)}, not one number for each output", module)


def _check_fit(module: str, pair: dict[str, TensorInfo], shapes: BaseShapes, misfits: Findings) -> None:
    features = shapes.features(module)
    if features is None:
        return misfits.add(f"{shapes.name} has no such module", module)
    if "base" in pair and pair["base"].shape != (shapes.vocab, shapes.hidden):
        misfits.add(f"A base of {_dims(pair['base'].shape)} comes with it, not that of {shapes.name}", module)
    for side, axis, size, word in (("A", 1, features[0], "inputs"), ("B", 0, features[1], "outputs")):
        shape = pair[side].shape if side in pair else ()
        if len(shape) == 2 and shape[axis] != size:
            misfits.add(f"lora_{side} has {shape[axis]} {word} where {shapes.name} has {size}", module)
    return None


def _check_targets(meaning: LoraConfig, binding: Binding) -> None:
    """A list of targets must name every module that has tensors, and every name must be met."""
    unnamed, unmet = meaning.misnamed(binding.ranks) if binding.ranks else ([], [])
    for module in unnamed:
        binding.faults.add("There are tensors for modules that target_modules does not name", module)
    for name in unmet:
        binding.faults.add("target_modules names modules without any tensor", name)


def _check_layers(meaning: LoraConfig, shapes: BaseShapes, binding: Binding) -> None:
    """Plain names of linears mean every layer, unless the config narrows them."""
    named = TARGETS.keys() & set(binding.targets) & meaning.names
    for target in sorted(named) if meaning.covers_all_layers else ():
        for layer in range(shapes.num_layers):
            if f"model.layers.{layer}.{TARGETS[target]}.{target}" not in binding.ranks:
                binding.misfits.add(f"{target} has no tensors in these layers of {shapes.name}", str(layer))


def _chunk_sizes(size: int) -> Iterator[int]:
    whole, rest = divmod(size, CHUNK_BYTES)
    yield from [CHUNK_BYTES] * whole
    if rest:
        yield rest


def _is_finite(chunk: bytes, dtype: str) -> bool:
    """Adding the lowest exponent bit to the exponent alone carries into the sign bit only when all its bits are set."""
    exponents, lowest, signs = _masks(dtype, len(chunk))
    return not ((int.from_bytes(chunk, "little") & exponents) + lowest) & signs


@lru_cache(maxsize=64)
def _masks(dtype: str, size: int) -> tuple[int, int, int]:
    """The exponent bits, their lowest bit and the sign bit, repeated for each number in `size` bytes."""
    width, exponent = DTYPE_BYTES[dtype], EXPONENTS[dtype]
    ones = int.from_bytes((1).to_bytes(width, "little") * (size // width), "little")
    return ones * exponent, ones * (exponent & -exponent), ones << (8 * width - 1)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _dims(shape: tuple[int, ...]) -> str:
    return "×".join(str(size) for size in shape) or "a single number"
