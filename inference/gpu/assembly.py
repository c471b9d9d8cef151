"""The parts of an engine that a GPU has in place of a CPU's: the decoder, the way adapters are read, their slots."""

from __future__ import annotations

from collections.abc import Callable

from inference.adapter_file import HostAdapter
from inference.architecture import Architecture
from inference.config import EngineConfig
from inference.gpu.adapters import DeviceSlots, SlotBank, packing
from inference.gpu.decoder import TritonDecoder
from inference.layers.attention import KVCache
from inference.model import DecoderWeights


class GpuParts:
    """Made once the cache has its memory. The graphs of short contexts are captured here, before anybody waits."""

    def __init__(
        self, config: EngineConfig, architecture: Architecture, weights: DecoderWeights, cache: KVCache
    ) -> None:
        is_int8 = config.adapter_quantization == "int8"
        self._bank = SlotBank(config.adapter_slots, config.max_rank, weights.device, is_int8)
        self.decoder = TritonDecoder(architecture, weights, self._bank, cache, config.deterministic)
        self.decoder.warm_up(config.max_rows)

    def packing(self, load: Callable[[str], HostAdapter]) -> Callable[[str], HostAdapter]:
        """`load`, with adapters in the layout of the device, in memory that it can copy from by itself."""
        return packing(load, self._bank.is_int8, is_pinned=self._bank.device.type == "cuda")

    def slots(self, load: Callable[[str], HostAdapter]) -> DeviceSlots:
        """Slots that are filled by `load`."""
        return DeviceSlots(self._bank, load)
