"""`inference.training.elementwise` in C++, for bfloat16 rows on a CPU. Threads share the rows of a call."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_float, c_int64, c_void_p
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from inference.decoders.native.build import BuildError, library_path

_SIGNATURES: Final[dict[str, list[type]]] = {
    "rms_norm": [c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_float],
    "rms_norm_backward": [c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_int64],
    "swiglu": [c_void_p, c_void_p, c_int64, c_int64],
    "swiglu_backward": [c_void_p, c_void_p, c_void_p, c_int64, c_int64],
    "rope": [c_void_p, c_int64, c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_float],
    "softmax": [c_void_p, c_int64, c_int64, c_float],
    "softmax_backward": [c_void_p, c_void_p, c_int64, c_int64, c_float],
}


@lru_cache(maxsize=1)
def native_elementwise() -> NativeElementwise | None:
    """The compiled functions, or None where they cannot be had."""
    try:
        return NativeElementwise(library_path())
    except BuildError:
        return None


class NativeElementwise:
    """The functions of `training.cpp` over whole tensors."""

    def __init__(self, library: Path) -> None:
        opened = ctypes.CDLL(str(library))
        for name, signature in _SIGNATURES.items():
            function = getattr(opened, f"training_{name}")
            function.argtypes, function.restype = signature, None
        self._library = opened
        self._pool = ThreadPoolExecutor(thread_name_prefix="training")

    def rms_norm(self, rows: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        rows, out, inverse = rows.contiguous(), torch.empty(rows.shape, dtype=rows.dtype), torch.empty(len(rows))
        width = rows.shape[1]

        def run(part: slice) -> None:
            pointers = _pointers(rows[part], weight, out[part], inverse[part])
            self._library.training_rms_norm(*pointers, len(rows[part]), width, eps)

        self._share(len(rows), run)
        return out, inverse

    def rms_norm_backward(self, grad: Tensor, rows: Tensor, weight: Tensor, inverse: Tensor) -> Tensor:
        grad, rows, out = grad.contiguous(), rows.contiguous(), torch.empty(rows.shape, dtype=rows.dtype)

        def run(part: slice) -> None:
            pointers = _pointers(grad[part], rows[part], weight, inverse[part], out[part])
            self._library.training_rms_norm_backward(*pointers, len(rows[part]), rows.shape[1])

        self._share(len(rows), run)
        return out

    def swiglu(self, gate_up: Tensor) -> Tensor:
        gate_up, inner = gate_up.contiguous(), gate_up.shape[1] // 2
        out = gate_up.new_empty(len(gate_up), inner)

        def run(part: slice) -> None:
            self._library.training_swiglu(*_pointers(gate_up[part], out[part]), len(out[part]), inner)

        self._share(len(out), run)
        return out

    def swiglu_backward(self, grad: Tensor, gate_up: Tensor) -> Tensor:
        grad, gate_up = grad.contiguous(), gate_up.contiguous()
        out = torch.empty_like(gate_up)

        def run(part: slice) -> None:
            pointers = _pointers(grad[part], gate_up[part], out[part])
            self._library.training_swiglu_backward(*pointers, len(out[part]), grad.shape[1])

        self._share(len(out), run)
        return out

    def rope(self, heads: Tensor, cos: Tensor, sin: Tensor, is_back: bool = False) -> Tensor:
        if heads.stride()[1:] != (heads.shape[2], 1):
            heads = heads.contiguous()
        out = heads.new_empty(heads.shape)

        def run(part: slice) -> None:
            shape = (len(heads[part]), heads.shape[1], heads.shape[2], -1.0 if is_back else 1.0)
            pointer, *others = _pointers(heads[part], cos[part], sin[part], out[part])
            self._library.training_rope(pointer, heads.stride(0), *others, *shape)

        self._share(len(heads), run)
        return out

    def softmax(self, scores: Tensor, scale: float) -> Tensor:
        def run(part: slice) -> None:
            rows = len(scores[part]) * scores.shape[1]
            self._library.training_softmax(scores[part].data_ptr(), rows, scores.shape[2], scale)

        self._share(len(scores), run, grain=1)
        return scores

    def softmax_backward(self, grad: Tensor, probabilities: Tensor, scale: float) -> Tensor:
        grad = grad.contiguous()

        def run(part: slice) -> None:
            pointers, rows = _pointers(grad[part], probabilities[part]), len(grad[part]) * grad.shape[1]
            self._library.training_softmax_backward(*pointers, rows, grad.shape[2], scale)

        self._share(len(grad), run, grain=1)
        return grad

    def _share(self, count: int, run: Callable[[slice], None], grain: int = 64) -> None:
        """Call `run` on parts of `count` items, one for each of torch's threads, but none smaller than `grain`."""
        parts = max(1, min(torch.get_num_threads(), count // grain))
        ends = [count * number // parts for number in range(parts + 1)]
        slices = [slice(start, end) for start, end in pairwise(ends)]
        others = [self._pool.submit(run, part) for part in slices[1:]]
        run(slices[0])
        for other in others:
            other.result()


def _pointers(*tensors: Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]
