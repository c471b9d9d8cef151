"""The pairs that the tensors of a method besides LoRA stand for, one function for each method.

What comes in is float32, whole numbers aside, and so is what goes out: A [rank, in] and B [out, rank], without the
scaling, which is folded into B as for any LoRA. Nothing larger than a pair is made on the way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inference.adapters.findings import Parts
from inference.adapters.methods import adalora, multilora
from inference.adapters.methods.adalora import AdaLora
from inference.adapters.methods.bdlora import BdLora
from inference.adapters.methods.method import Method
from inference.adapters.methods.miss import BLOCK, Miss
from inference.adapters.methods.multilora import SCALING, MultiLora
from inference.adapters.methods.nola import COEFFICIENTS, Nola
from inference.adapters.methods.vblora import BANK, INDICES, LOGITS, SHARES, VbLora
from inference.adapters.methods.vera import SHARED_A, SHARED_B, B, D, Vera
from inference.adapters.random_bases import combine, start_of, stream_key
from inference.model.architecture import Architecture

Tensors = dict[str, Tensor]


def read_parts(file: Any, parts: Parts) -> Tensors:
    """What an open safetensors `file` holds of `parts`: float32, but for whole numbers."""
    read = {part: file.get_tensor(info.name) for part, info in parts.items()}
    return {part: tensor.to(torch.float32) if tensor.is_floating_point() else tensor for part, tensor in read.items()}


def widths(architecture: Architecture, module: str) -> tuple[int, int]:
    """The inputs and outputs of `module`, a linear of the base or several in one."""
    places = architecture.places(module)
    return architecture.target_shape(places[0].target)[0], sum(place.width for place in places)


def expand(method: Method, module: str, tensors: Tensors, width_in: int, width_out: int) -> Tensors:
    """The pair of `module`, a linear of so many inputs and outputs. `tensors` are its parts and the shared ones, as
    the examination lets them through."""
    match method:
        case AdaLora():
            return {"A": tensors[adalora.E] * tensors[adalora.A], "B": tensors[adalora.B]}
        case Vera():
            return _vera(tensors, width_in, width_out)
        case Miss():
            return _miss(tensors[BLOCK], width_in, width_out)
        case BdLora():
            return tensors | {side: _block_diagonal(tensors[side], method.blocks) for side in method.sides(module)}
        case MultiLora():
            return _folded(tensors)
        case VbLora():
            return _mixed(method, tensors)
        case Nola():
            return combined(method, module, tensors[COEFFICIENTS], width_in, width_out)
    raise AssertionError(f"{method.label} is read and not expanded")


def _vera(tensors: Tensors, width_in: int, width_out: int) -> Tensors:
    a, b = tensors[SHARED_A][:, :width_in], tensors[SHARED_B][:width_out]
    return {"A": tensors[D][:, None] * a, "B": tensors[B][:, None] * b}


def _miss(block: Tensor, width_in: int, width_out: int) -> Tensors:
    """Input `n` is of group `n` modulo the rank."""
    groups = torch.arange(width_in) % len(block)
    a = (groups == torch.arange(len(block))[:, None]).to(torch.float32)
    return {"A": a, "B": block.repeat(1, width_out // block.shape[1]).t()}


def _folded(tensors: Tensors) -> Tensors:
    """LoRAs [parts, rank, in] and [parts, out, rank], scaled by [parts, out], as one of all their ranks."""
    b = tensors[multilora.B] * tensors[SCALING][:, :, None]
    return {"A": tensors[multilora.A].flatten(0, 1), "B": b.transpose(0, 1).flatten(1)}


def _block_diagonal(blocks: Tensor, count: int) -> Tensor:
    """`count` blocks, which lie one below the other, on the diagonal."""
    return torch.block_diag(*blocks.chunk(count))


def _mixed(method: VbLora, tensors: Tensors) -> Tensors:
    """Pieces [rank, inputs / length] of A and [outputs / length, rank] of B, each a mixture of vectors of the bank."""
    a, b = (_mixture(method, tensors, LOGITS[side]) for side in "AB")
    return {"A": a.flatten(1), "B": b.transpose(1, 2).flatten(0, 1)}


def _mixture(method: VbLora, tensors: Tensors, logits: str) -> Tensor:
    """[pieces, pieces, length]. Vector by vector, so that nothing is made as large as all that are chosen."""
    if method.is_chosen:
        chosen, shares = tensors[logits + INDICES].long(), tensors[logits + SHARES]
        shares = torch.cat([shares, 1 - shares.sum(-1, keepdim=True)], dim=-1)
    else:
        largest, chosen = tensors[logits].topk(method.topk, dim=-1)
        shares = largest.softmax(-1)
    mixed = torch.zeros(*chosen.shape[:2], method.length)
    for place in range(method.topk):
        mixed += shares[..., place, None] * tensors[BANK][chosen[..., place]]
    return mixed


def combined(method: Nola, module: str, coefficients: Tensor, width_in: int, width_out: int) -> Tensors:
    """The pair of a NOLA's `coefficients` [2, bases]."""
    keys = {matrix: stream_key(method.seed, module, matrix) for matrix in ("A0", "A", "B")}
    shape = (method.rank, width_in)
    a = combine(keys["A"], coefficients[0], shape, start_of(keys["A0"], shape))
    return {"A": a, "B": combine(keys["B"], coefficients[1], (width_out, method.rank))}
