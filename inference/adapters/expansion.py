"""The pairs that the tensors of a method besides LoRA stand for, one function for each method.

What comes in is float32, whole numbers aside, and so is what goes out: A [rank, in] and B [out, rank], without the
scaling, which is folded into B as for any LoRA. Nothing larger than a pair is made on the way.
"""

from __future__ import annotations

from torch import Tensor

from inference.adapters.methods.method import Method
from inference.adapters.methods.vera import SHARED_A, SHARED_B, B, D, Vera

Tensors = dict[str, Tensor]


def expand(method: Method, module: str, tensors: Tensors, width_in: int, width_out: int) -> Tensors:
    """The pair of `module`, a linear of so many inputs and outputs. `tensors` are its parts and the shared ones, as
    the examination lets them through."""
    match method:
        case Vera():
            return _vera(tensors, width_in, width_out)
    raise AssertionError(f"{method.label} is read and not expanded")


def _vera(tensors: Tensors, width_in: int, width_out: int) -> Tensors:
    a, b = tensors[SHARED_A][:, :width_in], tensors[SHARED_B][:width_out]
    return {"A": tensors[D][:, None] * a, "B": tensors[B][:, None] * b}
