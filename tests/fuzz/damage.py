"""Damage to sound inputs that knows their structure: trees of JSON, headers of weights, records of a .zip, bytes."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Sequence
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

NESTED: Final[Any] = json.loads("[" * 150 + "]" * 150)
ODD: Final[list[Any]] = [
    *(None, True, False, 0, 1, -1, 2, 64, 65, 2**31, 2**48, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, 1e-320),
    *("", "0", "\0", "\ud800", "\u202e", "a" * 600, "F32", "LORA", "q_proj", "../x", "{text}", "-", "1-1", "²"),
    *([], {}, [[]], [{}], {"": ""}, {"a": []}, [1, "x"], [[1, "x"]], [2**47] * 9, ["q_proj"], {"q_proj": 2}, NESTED),
]
BYTES: Final = [b"\0", b"\xff", b"\xff\xfe", b"\xed\xa0\x80", b"[", b"{", b'"', b"\n", b"\r", b"PK\x05\x06", b"=", b";"]
RECORDS: Final = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")
RENAMINGS: Final = (
    *(("layers.0", "layers.1"), ("layers.0", "layers.30"), ("layers.0", "layers.00"), ("layers.", "transformer.h.")),
    *(("q_proj", "k_proj"), ("q_proj", "odd"), ("v_proj", "down_proj"), ("self_attn", "mlp"), ("lora_A", "lora_B")),
    *(("base_model.model.", ""), ("base_model.model.model.", ""), (".weight", ".default.weight"), (".weight", ".bias")),
    *(("lora_A.weight", "lora_magnitude_vector"), ("lora_A", "modules_to_save"), ("lm_head", "model.embed_tokens")),
    *(("lora_embedding_A", "lora_A.weight"), ("base_layer", "lora_A"), ("weight", "\0"), ("lora", "é" * 300)),
    *(
        ("vera_lambda_b", "vera_lambda_d"),
        ("vera_A", "vera_B"),
        ("miss_block", "lora_scaling"),
        ("logits_A", "logits_B"),
    ),
    *(("vera_A", "vblora_vector_bank"), (".weight", ""), ("logits_A", "logits_A_topk_indices"), ("lora_A", "lora_a1")),
)
ENCODINGS: Final = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32")


@st.composite
def bytes_like(draw: DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of `seeds` with bytes changed, cut, repeated or put in."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(len(data), at + 40)))
        change = draw(st.sampled_from(["put", "cut", "repeat", "flip", "end"]))
        if change == "put":
            data[at:at] = draw(st.sampled_from(BYTES) | st.binary(max_size=8)) * draw(st.sampled_from([1, 1, 2, 300]))
        elif change == "repeat":
            data[to:to] = data[at:to] * draw(st.sampled_from([1, 2, 50]))
        elif change == "flip" and at < len(data):
            data[at] ^= draw(st.integers(1, 255))
        else:
            del data[at : to if change == "cut" else None]
    return bytes(data)


@st.composite
def trees_like(draw: DrawFn, trees: Sequence[Any]) -> Any:
    """One of `trees` with nodes replaced by odd values, renamed, repeated or taken out."""
    holder = [copy.deepcopy(draw(st.sampled_from(trees)))]
    for _ in range(draw(st.integers(1, 3))):
        parent, key = draw(st.sampled_from(list(_places(holder))))
        change = draw(st.sampled_from(["odd", "odd", "odd", "out", "again", "name", "wrap"]))
        value = parent[key]
        if change == "odd" or parent is holder:
            parent[key] = copy.deepcopy(draw(st.sampled_from(ODD) | st.text(max_size=8) | st.integers() | st.floats()))
        elif change == "out":
            del parent[key]
        elif change == "wrap":
            parent[key] = [value]
        elif isinstance(parent, list):
            parent.insert(key, copy.deepcopy(value))
        else:
            parent[draw(st.sampled_from(["", "a", "\ud800", "r", "inputs", "x" * 600, f"{key}x"]))] = copy.deepcopy(
                value
            )
    return holder[0]


@st.composite
def json_like(draw: DrawFn, trees: Sequence[Any], encodings: Sequence[str] = ("utf-8",)) -> bytes:
    """JSON of damaged `trees`, in one of `encodings`, with a key twice at times."""
    text = json.dumps(draw(trees_like(trees)))
    if draw(st.integers(0, 9)) == 0:
        text = text.replace("{", '{"r": 2, "r": 3, ', 1)
    return text.encode(draw(st.sampled_from(encodings)))


@st.composite
def lines_like(draw: DrawFn, trees: Sequence[Any]) -> bytes:
    """JSON lines, some of them damaged, some of them none."""
    line = json_like(trees) | st.sampled_from([json.dumps(tree).encode() for tree in trees]) | st.binary(max_size=20)
    return draw(st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\r"])).join(draw(st.lists(line, max_size=40)))


@st.composite
def weights_like(draw: DrawFn, weights: bytes) -> bytes:
    """A safetensors file with a damaged header before sound data."""
    (length,) = struct.unpack("<Q", weights[:8])
    header = draw(json_like([json.loads(weights[8 : 8 + length])], ENCODINGS))
    claimed = draw(st.sampled_from([len(header)] * 6 + [0, 1, 2**31, 2**63]))
    return struct.pack("<Q", claimed) + header + weights[8 + length :]


@st.composite
def tensors_like(draw: DrawFn, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, tuple[str, list[int]]]:
    """Types and shapes by name as in `tensors`, with names, sizes and types changed, tensors out and twice."""
    damaged = {name: (dtype, list(shape)) for name, (dtype, shape) in tensors.items()}
    for _ in range(draw(st.integers(1, 3))):
        if not damaged:
            break
        name = draw(st.sampled_from(sorted(damaged)))
        dtype, shape = damaged[name]
        change = draw(st.sampled_from(["name", "name", "all names", "shape", "dtype", "out", "again"]))
        old, new = draw(st.sampled_from(RENAMINGS))
        if change == "name":
            damaged[name.replace(old, new)] = damaged.pop(name)
        elif change == "all names":
            damaged = {name.replace(old, new): tensor for name, tensor in damaged.items()}
        elif change == "shape":
            damaged[name] = dtype, draw(st.sampled_from([shape[::-1], shape[:-1], [*shape, 1], [1, *shape[1:]], [0]]))
        elif change == "dtype":
            damaged[name] = draw(st.sampled_from(["F64", "F32", "F16", "BF16"])), shape
        elif change == "again":
            damaged[name.replace(old, new)] = damaged[name]
        else:
            del damaged[name]
    return damaged


@st.composite
def zips_like(draw: DrawFn, zips: Sequence[bytes]) -> bytes:
    """A .zip in whose records fields are overwritten."""
    data = bytearray(draw(st.sampled_from(zips)))
    for _ in range(draw(st.integers(1, 3))):
        record = draw(st.sampled_from(RECORDS))
        places = [at for at in range(len(data)) if data[at : at + 4] == record]
        at = draw(st.sampled_from(places or [0])) + draw(st.integers(4, 60))
        size = draw(st.sampled_from([1, 2, 4]))
        value = draw(st.sampled_from([0, 1, 8, 0x7F, 0xFF, 0x0800, 0xFFFF, 60_000, 2**31, 2**32 - 1]) | st.integers(0))
        data[at : at + size] = (value % 256**size).to_bytes(size, "little")
    return bytes(data)


def _places(tree: Any) -> Any:
    """Every (parent, key) in `tree`."""
    for key in tree if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])
