"""A process that makes native decoders of models in directories and prints what each took, in bytes.

It reads lines of `[DIRECTORY, QUANTIZATION, "held"]`, the last of which may lack, and writes a line of JSON for each. A
process of its own makes the decoder, so that nothing of one is there when the next is measured; torch is loaded once
for all, which takes longer than they do. `peak` is the most while loading and `kept` what stays, both above what the
process had before. With `held` all layers are read before the first is packed.
"""

from __future__ import annotations

import json
import os
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


def apart(directory: str, quantization: str, *options: str) -> None:
    """`main` in a process of its own."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        assert status == 0, f"the process of {directory} ended with {status}"
        return
    main(Path(directory), quantization, "held" in options)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    for line in sys.stdin:
        apart(*json.loads(line))
