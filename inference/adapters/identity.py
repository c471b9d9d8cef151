"""Who an adapter is: its digest, and the strict reading of a safetensors header that the digest rests on.

Pure standard library, so that the site can check an upload without torch and the worker can prove that the
file it loads is the file that was asked for. Names and paths never enter a digest; arithmetic always does.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final

from inference.adapters import invocation
from inference.adapters.patterns import order_matters
from inference.adapters.storable import is_storable
from inference.model import added_tokens
from inference.model.spec import IN_FEWER_BITS
from inference.reading import reading

MAX_HEADER_BYTES: Final = 8 * 1024 * 1024
MAX_NAME_CHARS: Final = 512
MAX_DIMENSIONS: Final = 8
KEPT_HEADERS: Final = 16
"""Headers that are kept as they were read: the states of an adapter that learns have one and the same."""
KEPT_HEADER_BYTES: Final = 256 * 1024
"""Longer ones are read anew each time."""
DTYPE_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_INDEX_BYTES: Final = {"U8": 1, "I16": 2, "I32": 4, "I64": 8}
_COPY_BYTES: Final = {**DTYPE_BYTES, "U8": 1, "I8": 1, "I32": 4, "I64": 8}
"""Of a copy in fewer bits."""
ARITHMETIC_FIELDS: Final = (
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "trainable_token_indices",
    "modules_to_save",
    "use_bdlora",
    added_tokens.KEY,
    invocation.KEY,
)
"""The fields of adapter_config.json that change what an adapter computes."""
METHOD_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "ADALORA": ("init_r",),
    "VERA": (),
    "MISS": ("init_weights", "mini_r"),
    "VBLORA": ("topk",),
    "MULTILORA": ("lora_num",),
    "NOLA": ("nola_basis", "nola_seed", "nola_generator"),
}
"""Those of methods besides LoRA, by peft_type, which is in their digest too."""

PARTS: Final = {
    "lora_A.weight": "A",
    "lora_B.weight": "B",
    "lora_B.bias": "shift",
    "lora_embedding_A": "A",
    "lora_embedding_B": "B",
    "lora_magnitude_vector": "magnitude",
    "token_adapter.base_layer.weight": "base",
    "token_adapter.base_layer.bias": "bias",
    "base_layer.weight": "base",
    "base_layer.bias": "bias",
    "token_adapter.trainable_tokens_delta": "rows",
    "bias": "bias",
    "vera_lambda_b": "vera_lambda_b",
    "vera_lambda_d": "vera_lambda_d",
    "miss_block": "miss_block",
    "lora_A": "lora_A",
    "lora_B": "lora_B",
    "lora_scaling": "lora_scaling",
    "lora_E": "lora_E",
    "nola_coefficients": "nola_coefficients",
    "vblora_logits_A": "vblora_logits_A",
    "vblora_logits_B": "vblora_logits_B",
    "vblora_logits_A_topk_indices": "vblora_logits_A_topk_indices",
    "vblora_logits_B_topk_indices": "vblora_logits_B_topk_indices",
    "vblora_logits_A_topk_weights": "vblora_logits_A_topk_weights",
    "vblora_logits_B_topk_weights": "vblora_logits_B_topk_weights",
}
"""The ends of names and what they hold: matrices, the bias of a B (lora_bias), DoRA's magnitudes, the base's own table
beside a LoRA on it, a bias in place of the base's, and rows of a table that were trained (themselves, whatever their
name says). A table may also lie there by its own name, as ``lm_head.weight``. Parts of other methods are called as they
are in files (`inference.adapters.methods`)."""
SHARED: Final = {
    "base_model.vera_A": "vera_A",
    "base_model.vera_B": "vera_B",
    "base_model.vblora_vector_bank": "vblora_vector_bank",
}
"""Tensors that are of no module, but of all."""
_TABLES: Final = ("embed_tokens", "lm_head")

_WRAPPERS: Final = re.compile(r"^(base_model\.model\.)+")
_WEIGHT: Final = re.compile(r"\.lora_(A|B)(\.[\w-]+)?\.(weight|bias)$")
_COPY: Final = re.compile(rf"\.(?:embed_tokens|lm_head)\.(?:token_adapter\.)?base_layer\.(?:weight|{IN_FEWER_BITS})$")
"""What PEFT saves of a table beside what was trained of it: its weight and, in fewer bits, what goes with that."""
_AGAIN: Final = re.compile(r"(.*\.(?:embed_tokens|lm_head))\.(?:modules_to_save|original_module)\.(weight|bias)")
"""What PEFT saves beside a whole table that was trained, once its height changed: the same again, and the base's."""
_INDICES: Final = "_topk_indices"
"""How the names of tensors of whole numbers end."""
_PARAMETER: Final = re.compile(r"\.lora_(embedding_A|embedding_B|magnitude_vector)(\.[\w-]+)?(\.weight)?$")


class HeaderError(ValueError):
    """A safetensors file that does not keep to its format."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a safetensors file; `begin` and `end` are byte offsets into the data part."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def is_of_indices(self) -> bool:
        """Whether it holds whole numbers that point at something."""
        return self.name.endswith(_INDICES)

    @property
    def is_of_copy(self) -> bool:
        """Whether it belongs to a copy of the base's own table in fewer bits, which nothing here computes with."""
        found = _COPY.search(self.name)
        return found is not None and (found[1] is not None or self.dtype not in DTYPE_BYTES)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Read and check the header of the safetensors file at `path`.

    Raises `HeaderError` when the header is truncated or not JSON, an entry has an unknown type or a wrong
    size, or the tensors overlap, leave gaps or do not fill the file exactly. Raises OSError.
    """
    size = path.stat().st_size
    with reading(path.name, HeaderError), path.open("rb") as file:
        raw = _read_json(file, size)
        parse = _kept if len(raw) <= KEPT_HEADER_BYTES else _parse
        return {tensor.name: tensor for tensor in parse(raw, size - 8 - len(raw))}


def _parse(raw: bytes, data_size: int) -> tuple[TensorInfo, ...]:
    """The tensors of a header, which follows from its bytes and from those behind it alone."""
    tensors = tuple(_tensor(name, entry) for name, entry in _entries(raw))
    _check_layout(sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end)), data_size)
    return tensors


_kept = lru_cache(maxsize=KEPT_HEADERS)(_parse)


@lru_cache(maxsize=1 << 14)
def canonical_name(name: str) -> str:
    """The name of a LoRA tensor without PEFT's wrappers: ``model.layers.0.self_attn.q_proj.lora_A.weight``."""
    return _PARAMETER.sub(r".lora_\1", _WEIGHT.sub(r".lora_\1.\3", _WRAPPERS.sub("", name)))


def part_of(name: str) -> tuple[str, str] | None:
    """The module that the tensor `name` belongs to and its part, one of `PARTS`; None for any other tensor."""
    canonical = canonical_name(name)
    owner, _, own = canonical.rpartition(".")
    if owner.rpartition(".")[2] in _TABLES and own == "weight":
        return owner, "base"
    end = next((end for end in PARTS if canonical.endswith(f".{end}")), "")
    module = canonical.removesuffix(f".{end}")
    kind = module.rpartition(".")[2]
    is_matrix_of_table = end.startswith("lora_embedding")
    if not end or (PARTS[end] in ("A", "B", "shift") and is_matrix_of_table != (kind == _TABLES[0])):
        return None
    is_of_another = PARTS[end] in ("base", "rows") and kind not in _TABLES
    return None if is_of_another or kind.startswith("lora_") else (module, PARTS[end])


def saved_as(name: str) -> str:
    """The tensor that PEFT reads where it wrote `name` beside that for nobody; empty for any other."""
    found = _AGAIN.fullmatch(name)
    return f"{found[1]}.{found[2]}" if found else ""


def adapter_digest(config: dict[str, Any], weights: Path) -> str:
    """SHA-256 in hex over the arithmetic of `config` and every tensor of `weights`, in order of name.

    The same tensors in another order, under another wrapper or beside another base path have the same
    digest. It is of what the file says, never of what that is expanded to. Raises `HeaderError` as `read_header` does.
    """
    header = read_header(weights)
    state = hashlib.sha256(b"loraland adapter 1\0")
    state.update(json.dumps(arithmetic(config), sort_keys=True, separators=(",", ":")).encode())
    with weights.open("rb") as file:
        start = 8 + struct.unpack("<Q", file.read(8))[0]
        for tensor in sorted(header.values(), key=lambda tensor: canonical_name(tensor.name)):
            label = f"\0{canonical_name(tensor.name)}\0{tensor.dtype}\0{tensor.shape}\0"
            state.update(label.encode())
            file.seek(start + tensor.begin)
            state.update(file.read(tensor.end - tensor.begin))
    return state.hexdigest()


def composed_digest(components: Iterable[tuple[str, float]]) -> str:
    """The identity of adapters that are added up: SHA-256 in hex over their digests and weights in order."""
    state = hashlib.sha256(b"loraland composition 1\0")
    for digest, weight in components:
        state.update(f"{digest} {float(weight).hex()}\0".encode())
    return state.hexdigest()


def blended_digest(digests: Iterable[str], kind: str, top_k: int, temperature: float, gate: str) -> str:
    """The identity of adapters that a gate weighs: SHA-256 in hex over their digests in order, the gate's kind and
    settings, and the digest `gate` of its tensors, empty where they follow from the adapters."""
    state = hashlib.sha256(b"loraland blend 1\0")
    for word in (kind, str(top_k), float(temperature).hex(), gate, *digests):
        state.update(f"{word}\0".encode())
    return state.hexdigest()


def arithmetic(config: dict[str, Any]) -> dict[str, Any]:
    """The part of an adapter_config.json that changes what the adapter computes, without empty values."""
    method = str(config.get("peft_type")).upper()
    fields = (*ARITHMETIC_FIELDS, *METHOD_FIELDS.get(method, ()))
    told = {"peft_type": method} if method in METHOD_FIELDS else {}
    return told | {key: _in_order(config[key]) for key in fields if config.get(key)}


def _in_order(value: Any) -> Any:
    """Pairs instead of an object, where the order of its keys decides which of them a module takes."""
    return list(value.items()) if isinstance(value, dict) and order_matters(value) else value


def _read_json(file: BinaryIO, size: int) -> bytes:
    if size < 8:
        raise HeaderError(f"the file has {size} bytes; a safetensors file starts with an 8-byte length")
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MAX_HEADER_BYTES:
        raise HeaderError(f"the header claims {length} bytes; at most {MAX_HEADER_BYTES} are allowed")
    if 8 + length > size:
        raise HeaderError(f"the header claims {length} bytes but the file ends after {size - 8}")
    return file.read(length)


def _entries(raw: bytes) -> list[tuple[str, Any]]:
    try:
        pairs: list[tuple[str, Any]] = json.loads(raw.decode("utf-8"), object_pairs_hook=lambda pairs: pairs)
    except (ValueError, RecursionError) as error:
        raise HeaderError("the header is not JSON: this is not a safetensors file") from error
    if not raw.startswith(b"{"):
        raise HeaderError("the header is not a JSON object")
    names = [name for name, _ in pairs]
    if len(names) != len(set(names)):
        raise HeaderError("the header names a tensor twice")
    if not _is_metadata(dict(pairs).get("__metadata__", [])):
        raise HeaderError("the metadata of the header must be an object of texts")
    return [(name, entry) for name, entry in pairs if name != "__metadata__"]


def _tensor(name: str, entry: Any) -> TensorInfo:
    shown = _short(name)
    if len(name) > MAX_NAME_CHARS or not is_storable(name):
        raise HeaderError(f"the name {shown} is no text of at most {MAX_NAME_CHARS} characters")
    fields = dict(entry) if _is_object(entry) else {}
    if len(fields) != 3 or len(entry) != 3 or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise HeaderError(f"tensor {shown} has no dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    sizes = _sizes_of(name)
    if not isinstance(dtype, str) or dtype not in sizes:
        raise HeaderError(f"tensor {shown} has type {_short(dtype)}; allowed are {', '.join(sizes)}")
    if not _are_sizes(shape, MAX_DIMENSIONS) or not _are_sizes(offsets, 2) or len(offsets) != 2:
        raise HeaderError(
            f"tensor {shown} has a malformed shape or offsets; a shape has at most {MAX_DIMENSIONS} sizes"
        )
    begin, end = offsets
    if end - begin != math.prod(shape) * sizes[dtype]:
        raise HeaderError(f"tensor {shown} of shape {shape} and type {dtype} does not fit its {end - begin} bytes")
    return TensorInfo(name, dtype, tuple(shape), begin, end)


def _sizes_of(name: str) -> Mapping[str, int]:
    """The types that the tensor `name` may have, and the bytes of a number of each."""
    if _COPY.search(name):
        return _COPY_BYTES
    return _INDEX_BYTES if name.endswith(_INDICES) else DTYPE_BYTES


def _is_object(entry: Any) -> bool:
    return isinstance(entry, list) and all(isinstance(pair, tuple) for pair in entry)


def _is_metadata(entry: Any) -> bool:
    return _is_object(entry) and all(isinstance(value, str) for _, value in entry)


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _are_sizes(values: Any, most: int) -> bool:
    """Whether `values` is a list of at most `most` sizes, so that their product stays a small number."""
    are_few = isinstance(values, list) and len(values) <= most
    return are_few and all(type(value) is int and 0 <= value < 2**48 for value in values)


def _check_layout(tensors: list[TensorInfo], data_size: int) -> None:
    expected = 0
    for tensor in tensors:
        if tensor.begin != expected:
            problem = "overlaps the tensor before it" if tensor.begin < expected else "leaves a gap before it"
            raise HeaderError(f"tensor {tensor.name!a} {problem}")
        expected = tensor.end
    if expected != data_size:
        raise HeaderError(f"the tensors fill {expected} bytes but the file holds {data_size}")
