"""The compiled decoder as Python sees it: `source/views.h` field by field, and the functions of `binding.cpp`."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Final

from inference.model import architecture

TARGETS: Final = (*architecture.TARGETS, architecture.EMBEDDING, architecture.HEAD)
"""In the order of `Target` in views.h."""
DEPTH: Final = 64
"""Inputs of a matrix tile of int8."""
MAX_IN: Final = 32768
UNITS: Final = ("amx", "avx512_bf16", "avx512_f32")
"""Where products are computed, in the order of `Unit` in units.h: on the matrix unit, or on the vector unit from pairs
of bfloat16, or there from float32."""


class LinearView(Structure):
    _fields_ = [
        ("weight", c_void_p),
        ("scales", c_void_p),
        ("group_scales", c_void_p),
        ("group_mins", c_void_p),
        ("bits", c_int64),
        ("out", c_int64),
        ("into", c_int64),
    ]


class LayerView(Structure):
    _fields_ = [
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("qkv", LinearView),
        ("o", LinearView),
        ("gate_up", LinearView),
        ("down", LinearView),
    ]


class ModelView(Structure):
    _fields_ = [
        ("hidden", c_int64),
        ("num_layers", c_int64),
        ("num_heads", c_int64),
        ("num_kv_heads", c_int64),
        ("head_dim", c_int64),
        ("inner", c_int64),
        ("vocab", c_int64),
        ("block_size", c_int64),
        ("window", c_int64),
        ("norm_eps", c_float),
        ("embedding", c_void_p),
        ("norm", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("head", LinearView),
        ("layers", POINTER(LayerView)),
    ]


class PairView(Structure):
    _fields_ = [("a", c_void_p), ("b", c_void_p), ("scale", c_void_p), ("rank", c_int64)]


class AdapterView(Structure):
    _fields_ = [("targets", PairView * len(TARGETS))]


class PassView(Structure):
    _fields_ = [
        ("rows", c_int64),
        ("num_samples", c_int64),
        ("token_ids", c_void_p),
        ("positions", c_void_p),
        ("cache_slots", c_void_p),
        ("adapters", c_void_p),
        ("table_starts", c_void_p),
        ("tables", c_void_p),
        ("sample_rows", c_void_p),
        ("adapter_views", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("logits", c_void_p),
        ("rings", c_void_p),
        ("heard", c_int64),
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


def best_unit(library: ctypes.CDLL) -> str:
    """The one of `UNITS` on which this processor is fastest."""
    return UNITS[library.native_best_unit()]
