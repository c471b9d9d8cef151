"""The compiled decoder as Python sees it: `source/views.h` field by field, and the functions of `binding.cpp`."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any, Final

from inference.model import architecture

TARGETS: Final = (*architecture.TARGETS, architecture.EMBEDDING, architecture.HEAD)
"""In the order of `Target` in views.h."""
DEPTH: Final = 64
"""Inputs of a matrix tile of int8."""
MAX_IN: Final = 32768
UNITS: Final = ("amx", "avx512_bf16", "avx512_f32")
"""Where products are computed, in the order of `Unit` in units.h: on the matrix unit, or on the vector unit from pairs
of bfloat16, or there from float32."""


def _all(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class LinearView(Structure):
    _fields_ = [*_all(c_void_p, "weight scales group_scales group_mins"), *_all(c_int64, "bits out into")]


class LayerView(Structure):
    _fields_ = [*_all(c_void_p, "attention_norm mlp_norm"), *_all(LinearView, "qkv o gate_up down")]


class ModelView(Structure):
    _fields_ = [
        *_all(c_int64, "hidden num_layers num_heads num_kv_heads head_dim inner vocab block_size window"),
        ("norm_eps", c_float),
        *_all(c_void_p, "embedding norm cos sin"),
        ("head", LinearView),
        ("layers", POINTER(LayerView)),
    ]


class PairView(Structure):
    _fields_ = [*_all(c_void_p, "a b scale"), ("rank", c_int64)]


class AdapterView(Structure):
    _fields_ = [("targets", PairView * len(TARGETS))]


class PassView(Structure):
    _fields_ = [
        *_all(c_int64, "rows num_samples num_hidden"),
        *_all(c_void_p, "token_ids positions cache_slots adapters table_starts tables sample_rows hidden_rows"),
        *_all(c_void_p, "adapter_views keys values logits states interrupts"),
        ("acknowledged", c_int64),
    ]


def open_library(path: Path) -> ctypes.CDLL:
    """Load the library at `path` and declare its functions. They let go of the interpreter's lock while they run."""
    library = ctypes.CDLL(str(path))
    library.native_create.argtypes, library.native_create.restype = [POINTER(ModelView), c_int, c_int], c_void_p
    library.native_best_unit.argtypes, library.native_best_unit.restype = [], c_int
    library.native_unit.argtypes, library.native_unit.restype = [c_void_p], c_int
    library.native_forward.argtypes, library.native_forward.restype = [c_void_p, POINTER(PassView)], c_int
    library.native_argmax.argtypes = [c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p, c_void_p]
    library.native_argmax.restype = None
    library.native_destroy.argtypes, library.native_destroy.restype = [c_void_p], None
    return library
