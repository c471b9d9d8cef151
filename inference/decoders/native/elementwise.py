"""`inference.training.elementwise` in C++, for bfloat16 rows on a CPU. Threads share the rows of a call."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from inference.decoders.native.build import BuildError, library_path
from inference.decoders.native.library import UNITS, best_unit, open_library


@lru_cache(maxsize=1)
def native_elementwise() -> NativeElementwise | None:
    """The compiled functions, or None where they cannot be had."""
    try:
        return NativeElementwise(library_path())
    except BuildError:
        return None


class NativeElementwise:
    """The functions of `training.h` over whole tensors, on the `unit` that is named or on the fastest (`auto`)."""

    def __init__(self, library: Path, unit: str = "auto") -> None:
        opened = open_library(library)
        chosen = best_unit(opened) if unit == "auto" else unit
        self._functions = opened.native_training(UNITS.index(chosen)).contents
        self._pool = ThreadPoolExecutor(thread_name_prefix="training")

    def rms_norm(self, rows: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        rows, out, inverse = rows.contiguous(), torch.empty(rows.shape, dtype=rows.dtype), torch.empty(len(rows))
        self._share("rms_norm", len(rows), (rows, weight.data_ptr(), out, inverse), (rows.shape[1], eps))
        return out, inverse

    def rms_norm_backward(self, grad: Tensor, rows: Tensor, weight: Tensor, inverse: Tensor) -> Tensor:
        grad, rows, out = grad.contiguous(), rows.contiguous(), torch.empty(rows.shape, dtype=rows.dtype)
        self._share("rms_norm_backward", len(rows), (grad, rows, weight.data_ptr(), inverse, out), (rows.shape[1],))
        return out

    def swiglu(self, gate_up: Tensor) -> Tensor:
        gate_up, inner = gate_up.contiguous(), gate_up.shape[1] // 2
        out = gate_up.new_empty(len(gate_up), inner)
        self._share("swiglu", len(out), (gate_up, out), (inner,))
        return out

    def swiglu_backward(self, grad: Tensor, gate_up: Tensor) -> Tensor:
        grad, gate_up = grad.contiguous(), gate_up.contiguous()
        out = torch.empty_like(gate_up)
        self._share("swiglu_backward", len(out), (grad, gate_up, out), (grad.shape[1],))
        return out

    def rope(self, heads: Tensor, cos: Tensor, sin: Tensor, is_back: bool = False) -> Tensor:
        if heads.stride()[1:] != (heads.shape[2], 1):
            heads = heads.contiguous()
        out, sizes = heads.new_empty(heads.shape), (*heads.shape[1:], -1.0 if is_back else 1.0)
        self._share("rope", len(heads), (heads, heads.stride(0), cos, sin, out), sizes)
        return out

    def softmax(self, scores: Tensor, scale: float) -> Tensor:
        _, height, length = scores.shape
        self._share("softmax", len(scores), (scores,), (length, scale), height, grain=1)
        return scores

    def softmax_backward(self, grad: Tensor, probabilities: Tensor, scale: float) -> Tensor:
        grad = grad.contiguous()
        _, height, length = grad.shape
        self._share("softmax_backward", len(grad), (grad, probabilities), (length, scale), height, grain=1)
        return grad

    def _share(
        self,
        name: str,
        count: int,
        parts: Sequence[Tensor | int],
        sizes: Sequence[int | float],
        height: int = 1,
        grain: int = 64,
    ) -> None:
        """Call the function on parts of `count` items, one for each of torch's threads, but none smaller than `grain`.

        Of `parts` the tensors are cut, and numbers given as they are; then it is told how many rows there are, which
        are `height` in an item, and `sizes`.
        """
        function = getattr(self._functions, name)

        def run(start: int, end: int) -> None:
            pointers = (part[start:end].data_ptr() if isinstance(part, Tensor) else part for part in parts)
            function(*pointers, (end - start) * height, *sizes)

        num_parts = max(1, min(torch.get_num_threads(), count // grain))
        first, *others = pairwise(count * number // num_parts for number in range(num_parts + 1))
        running = [self._pool.submit(run, *bounds) for bounds in others]
        run(*first)
        for other in running:
            other.result()
