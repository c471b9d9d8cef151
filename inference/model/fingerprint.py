"""Which arithmetic a worker computes, in one line: workers of one fingerprint give the same bits."""

from __future__ import annotations

import hashlib
import platform
import struct
import uuid
from pathlib import Path
from typing import Final

import torch

from inference.config import EngineConfig
from inference.model.torch_environment import sums

VERSION: Final = 5
"""To be raised by whoever changes a bit of the decoder's or the sampler's results."""
_FILES: Final = ("*.json", "*.jinja", "*.model", "*.safetensors", "*.gguf")
_END: Final = 65536
_PIECE: Final = 1 << 20
_DTYPES: Final = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def fingerprint(
    config: EngineConfig,
    model_dir: Path,
    dtype: torch.dtype,
    device: torch.device,
    context_length: int,
    unit: str = "",
) -> str:
    """For example ``5/bf16/none/cpu-amx/ab12cd34``. `unit` names where the native decoder computes, if it does.

    The last part covers the base's files and what else shapes an answer: torch's version, the processor by which
    it chooses kernels, the block size, the context, by which long chats are cut, the options of a GPU, and whose
    sampling stands for what callers leave out.
    """
    options = f" {config.adapter_quantization} {config.deterministic}" if device.type == "cuda" else ""
    options += " own sampling" if config.default_sampling == "model" else ""
    parts = f"{processor(device, unit)} {config.block_size} {context_length}{options}"
    state = hashlib.sha256(parts.encode())
    for path in sorted(path for kind in _FILES for path in model_dir.glob(kind) if path.name != "source.json"):
        update_identity(state, path)
    kind = f"{device.type}-{unit or _capability(device)}"
    return f"{VERSION}/{_DTYPES[dtype]}/{config.quantization}/{kind}/{state.hexdigest()[:8]}"


def of_nobody_else(fingerprint: str) -> str:
    """The fingerprint of a worker whose rows have other bits in other company: no other computes alike, nor does it
    compute again what it computed before. So it takes no answer over from anybody, and nobody takes one from it."""
    return f"{fingerprint}/inexact-{uuid.uuid4().hex[:8]}"


def update_identity(state: hashlib._Hash, path: Path) -> None:
    """Take a file's name and size into `state` with its content, of which for weights only the header and the last
    64 KiB are read; of GGUF's header as much."""
    size = path.stat().st_size
    state.update(f"\0{path.name} {size}\0".encode())
    with path.open("rb") as file:
        if path.suffix in (".safetensors", ".gguf"):
            length = struct.unpack("<Q", file.read(8))[0] if path.suffix == ".safetensors" else _END
            state.update(file.read(length))
            file.seek(max(0, size - _END))
        while piece := file.read(_PIECE):
            state.update(piece)


def _capability(device: torch.device) -> str:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"sm{major}{minor}"
    return str(torch.backends.cpu.get_cpu_capability()).lower()


def processor(device: torch.device, unit: str) -> str:
    """Torch's version, and what libraries look at beyond `_capability`: matrix units, caches and threads, or the very
    model of a GPU.

    The native decoder looks at nothing but its unit.
    """
    return f"{torch.__version__} {unit or _looked_at(device)}"


def _looked_at(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} {torch.version.cuda}"
    features = sorted(torch.cpu.get_capabilities().items()) if hasattr(torch.cpu, "get_capabilities") else []
    shaping = [f"{name}={value}" for name, value in features if not name.startswith("num_")]
    return f"{platform.machine()} {torch.get_num_threads()} {sums()} {' '.join(shaping)}"
