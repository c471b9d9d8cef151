"""A process that makes a native decoder of the model in a directory and prints what that took, in bytes.

    python loading_memory.py DIRECTORY QUANTIZATION [held]

`peak` is the most while loading and `kept` what stays, both above what the process had before. With `held` all layers
are read before the first is packed.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import torch

from inference.decoders.native.bank import NativeBank
from inference.decoders.native.build import library_path
from inference.decoders.native.decoder import NativeDecoder
from inference.model.architecture import read_architecture
from inference.model.heap import trim_heap
from inference.model.weights import stream_weights


def resident(what: str) -> int:
    """`VmRSS` or the peak since it was forgotten, `VmHWM`."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def main(directory: Path, quantization: str, holds: bool) -> None:
    architecture, library = read_architecture(directory / "config.json"), library_path()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before = resident("VmRSS")
    weights = stream_weights(directory, architecture, torch.bfloat16, quantization=quantization)
    weights = weights.held() if holds else weights
    decoder = NativeDecoder(architecture, weights, NativeBank(4), library, 32, 1)
    del weights
    trim_heap()
    print(json.dumps({"peak": resident("VmHWM") - before, "kept": resident("VmRSS") - before, "unit": decoder.unit}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], "held" in sys.argv[3:])
