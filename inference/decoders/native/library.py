"""The compiled decoder as Python sees it: `source/views.h` field by field, and the functions of `binding.cpp`."""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, Structure, c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any, Final

from inference.config import DECODER_UNITS
from inference.model import architecture
from inference.model.spec import NORMS

TARGETS: Final = (*architecture.TARGETS, architecture.EMBEDDING, architecture.HEAD, *NORMS)
"""In the order of `Target` in views.h."""
GATE_KINDS: Final = ("arrow", "flow", "ramole")
"""In the order of `GateKind` there."""
DEPTH: Final = 32
"""Inputs that are quantised together, and those of a tile of the matrix unit."""
MAX_IN: Final = 32768
UNITS: Final = DECODER_UNITS


def _all(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class LinearView(Structure):
    _fields_ = [*_all(c_void_p, "weight scales mins fifths codes"), *_all(c_int64, "bits out into")]


class NormView(Structure):
    _fields_ = _all(c_void_p, "weight bias")


class LayerView(Structure):
    _fields_ = [
        *_all(NormView, "attention_norm attention_out_norm mlp_norm mlp_out_norm q_norm k_norm"),
        *_all(LinearView, "qkv o gate_up down"),
        *_all(c_void_p, "qkv_bias o_bias gate_up_bias down_bias cos sin"),
        ("window", c_int64),
    ]


class ModelView(Structure):
    _fields_ = [
        *_all(c_int64, "hidden num_layers num_heads num_kv_heads head_dim inner vocab block_size rotary_dim"),
        *_all(c_int64, "is_wide is_gated is_parallel is_interleaved norms_whole activation"),
        *_all(c_float, "norm_eps attention_scale score_cap logit_cap"),
        *_all(c_float, "embedding_multiplier residual_multiplier logit_multiplier"),
        ("embedding", c_void_p),
        ("norm", NormView),
        ("head", LinearView),
        ("head_bias", c_void_p),
        ("layers", POINTER(LayerView)),
    ]


class GateView(Structure):
    _fields_ = [
        *_all(c_void_p, "projection keys bias ends"),
        *_all(c_int64, "kind columns parts top_k"),
        ("temperature", c_float),
    ]


class PairView(Structure):
    _fields_ = [*_all(c_void_p, "a b scale bias"), ("gate", POINTER(GateView)), ("rank", c_int64)]


class AdapterView(Structure):
    _fields_ = [("targets", PairView * len(TARGETS))]


class PassView(Structure):
    _fields_ = [
        *_all(c_int64, "rows num_samples num_hidden"),
        *_all(c_void_p, "token_ids positions cache_slots adapters table_starts tables sample_rows hidden_rows"),
        *_all(c_void_p, "adapter_views keys values logits states coefficients stream left interrupts"),
        ("acknowledged", c_int64),
    ]


def _function(pointers: int, *others: Any) -> Any:
    return CFUNCTYPE(None, *[c_void_p] * pointers, *others)


class Training(Structure):
    """The operators of `source/training.h`."""

    _fields_ = [
        ("rms_norm", _function(4, c_int64, c_int64, c_float)),
        ("rms_norm_backward", _function(5, c_int64, c_int64)),
        ("swiglu", _function(2, c_int64, c_int64)),
        ("swiglu_backward", _function(3, c_int64, c_int64)),
        ("rope", CFUNCTYPE(None, c_void_p, c_int64, *[c_void_p] * 3, *[c_int64] * 3, c_float)),
        ("softmax", _function(1, c_int64, c_int64, c_float)),
        ("softmax_backward", _function(2, c_int64, c_int64, c_float)),
    ]


def open_library(path: Path) -> ctypes.CDLL:
    """Load the library at `path` and declare its functions. They let go of the interpreter's lock while they run."""
    library = ctypes.CDLL(str(path))
    library.native_has_unit.argtypes, library.native_has_unit.restype = [c_int], c_int
    library.native_best_unit.argtypes, library.native_best_unit.restype = [], c_int
    library.native_create.argtypes, library.native_create.restype = [POINTER(ModelView), c_int, c_int], c_void_p
    library.native_forward.argtypes, library.native_forward.restype = [c_void_p, POINTER(PassView)], c_int
    library.native_argmax.argtypes = [c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p, c_void_p]
    library.native_argmax.restype = None
    library.native_destroy.argtypes, library.native_destroy.restype = [c_void_p], None
    library.native_training.argtypes, library.native_training.restype = [c_int], POINTER(Training)
    return library


def units_of(library: ctypes.CDLL) -> list[str]:
    """The units that the library and this processor have, the most able first."""
    return [name for number, name in enumerate(UNITS) if library.native_has_unit(number)]


def best_unit(library: ctypes.CDLL) -> str:
    """The fastest of them."""
    return UNITS[library.native_best_unit()]
