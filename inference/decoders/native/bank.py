"""The adapters in the device's slots, as the native decoder finds them: by addresses."""

from __future__ import annotations

import ctypes

import torch

from inference.adapters.gate import Gate
from inference.adapters.packed_lora import pack_adapter
from inference.adapters.slots import Bank
from inference.adapters.weights import AdapterWeights
from inference.decoders.native.library import GATE_KINDS, TARGETS, AdapterView, GateView, PairView

AdapterPointer = ctypes.POINTER(AdapterView)


class _Gate:
    """A gate as the decoder reads it, and the memory of that. Its projection lies column by column."""

    def __init__(self, gate: Gate) -> None:
        self.ends = torch.tensor(gate.ends, dtype=torch.int64)
        assert gate.projection.mT.is_contiguous(), "a gate was packed with its adapter"
        self.view = GateView(
            projection=gate.projection.data_ptr(),
            keys=None if gate.keys is None else gate.keys.data_ptr(),
            bias=None if gate.bias is None else gate.bias.data_ptr(),
            ends=self.ends.data_ptr(),
            kind=GATE_KINDS.index(gate.kind),
            columns=gate.projection.shape[2],
            parts=len(gate.ends),
            top_k=gate.top_k,
            temperature=gate.temperature,
        )


class NativeBank(Bank):
    """Packed pairs by slot, where they lie in host memory. `views` is an array of pointers [slots], empty where a
    slot is."""

    is_packed = True

    def __init__(self, num_slots: int) -> None:
        self.views = (AdapterPointer * num_slots)()
        self._kept: dict[int, tuple[AdapterView, AdapterWeights, list[_Gate]]] = {}

    @property
    def has_gates(self) -> bool:
        """Whether a blend is in a slot."""
        return any(gates for _, _, gates in self._kept.values())

    def prepare(self, weights: AdapterWeights) -> AdapterWeights:
        """`weights` packed. Those that were read for a native decoder are packed already; sums are not."""
        return pack_adapter(weights)

    def put(self, slot: int, weights: AdapterWeights) -> None:
        """Point `slot` at `weights`, in place of what was there. Nothing is copied if they are packed."""
        kept = pack_adapter(weights)
        view, gates = AdapterView(), list[_Gate]()
        for index, target in enumerate(TARGETS):
            if pair := kept.get(target):
                assert pair.a.dtype == pair.b.dtype, "the native decoder computes in one type"
                scale, bias = (None if part is None else part.data_ptr() for part in (pair.scale, pair.bias))
                gates += [_Gate(pair.gate)] if pair.gate else []
                gate = ctypes.pointer(gates[-1].view) if pair.gate else None
                view.targets[index] = PairView(pair.a.data_ptr(), pair.b.data_ptr(), scale, bias, gate, pair.rank)
        self._kept[slot] = view, kept, gates
        self.views[slot] = ctypes.pointer(view)

    def clear(self, slot: int) -> None:
        self.views[slot] = AdapterPointer()
        del self._kept[slot]
