"""The adapters in the device's slots, in the order in which the native decoder reads them."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.nn import functional

from inference.architecture import EMBEDDING, HEAD
from inference.layers.lora import AdapterWeights, TargetWeights
from inference.native.library import BLOCK, TARGETS, AdapterView, PairView

AdapterPointer = ctypes.POINTER(AdapterView)


class NativeBank:
    """Packed pairs by slot. `views` is an array of pointers [slots], empty where a slot is."""

    def __init__(self, num_slots: int) -> None:
        self.views = (AdapterPointer * num_slots)()
        self._kept: dict[int, tuple[AdapterView, list[Tensor]]] = {}

    def prepare(self, weights: AdapterWeights) -> AdapterWeights:
        """Nothing is done before an adapter is put into its slot."""
        return weights

    def is_ready(self, slot: int) -> bool:
        """What is put is there at once."""
        return True

    def put(self, slot: int, weights: AdapterWeights) -> None:
        """Place `weights` in `slot`, in place of what was there."""
        kept: list[Tensor] = []
        view = AdapterView()
        for index, target in enumerate(TARGETS):
            if target in weights:
                view.targets[index] = _pack(target, weights[target], kept)
        self._kept[slot] = view, kept
        self.views[slot] = ctypes.pointer(view)

    def clear(self, slot: int) -> None:
        """Empty `slot`."""
        self.views[slot] = AdapterPointer()
        del self._kept[slot]


def _pack(target: str, weights: TargetWeights, kept: list[Tensor]) -> PairView:
    """a [layers, rank, in], b [layers, rank / 2, out, 2], both bfloat16; ranks are even already.

    The embedding's a stays [vocab, rank], and the head's outputs are padded to whole blocks.
    """
    a, b = weights.a.to(torch.bfloat16), weights.b.to(torch.bfloat16)
    scale = weights.scale
    if target == HEAD:
        padding = (0, -b.shape[2] % BLOCK)
        b, scale = functional.pad(b, padding), None if scale is None else functional.pad(scale, padding)
    num_layers, rank, out = b.shape
    tensors = [
        (a if target == EMBEDDING else a.transpose(1, 2)).contiguous(),
        b.view(num_layers, rank // 2, 2, out).transpose(2, 3).contiguous(),
        *([] if scale is None else [scale.to(torch.float32).contiguous()]),
    ]
    kept += tensors
    pointers = [each.data_ptr() for each in tensors]
    return PairView(pointers[0], pointers[1], pointers[2] if len(pointers) > 2 else None, rank)
