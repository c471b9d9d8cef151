"""The adapters in the device's slots, as the native decoder finds them: by addresses."""

from __future__ import annotations

import ctypes

from inference.adapters.packed_lora import pack_adapter
from inference.adapters.slots import Bank
from inference.adapters.weights import AdapterWeights
from inference.decoders.native.library import TARGETS, AdapterView, PairView

AdapterPointer = ctypes.POINTER(AdapterView)


class NativeBank(Bank):
    """Packed pairs by slot, where they lie in host memory. `views` is an array of pointers [slots], empty where a
    slot is."""

    is_packed = True

    def __init__(self, num_slots: int) -> None:
        self.views = (AdapterPointer * num_slots)()
        self._kept: dict[int, tuple[AdapterView, AdapterWeights]] = {}

    def prepare(self, weights: AdapterWeights) -> AdapterWeights:
        """`weights` packed. Those that were read for a native decoder are packed already; sums are not."""
        return pack_adapter(weights)

    def put(self, slot: int, weights: AdapterWeights) -> None:
        """Point `slot` at `weights`, in place of what was there. Nothing is copied if they are packed."""
        kept = pack_adapter(weights)
        view = AdapterView()
        for index, target in enumerate(TARGETS):
            if pair := kept.get(target):
                assert pair.a.dtype == pair.b.dtype, "the native decoder computes in one type"
                scale, bias = (None if part is None else part.data_ptr() for part in (pair.scale, pair.bias))
                view.targets[index] = PairView(pair.a.data_ptr(), pair.b.data_ptr(), scale, bias, pair.rank)
        self._kept[slot] = view, kept
        self.views[slot] = ctypes.pointer(view)

    def clear(self, slot: int) -> None:
        self.views[slot] = AdapterPointer()
        del self._kept[slot]
