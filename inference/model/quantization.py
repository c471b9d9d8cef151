"""In how many bits the base is served, by `QUANTIZATION`, the checkpoint and the device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from inference.model.architecture import Architecture
from inference.model.checkpoint import WeightsError
from inference.model.checkpoints import open_checkpoint
from inference.model.linear import Int4Linear, Int8Linear, Linear, Nf4Linear, PlainLinear
from inference.model.quantized.config import scheme_of

log = logging.getLogger(__name__)

MakeLinear = Callable[[Tensor], Linear]
IN_GROUPS: Final[dict[str, MakeLinear]] = {"int8": Int8Linear, "int4": Int4Linear}


def settle_quantization(quantization: str, directory: Path, architecture: Architecture, device: torch.device) -> str:
    """What `auto` means for the checkpoint in `directory`: `none` where it is in full, `nf4` where it is that and the
    GPU has it, and `auto` itself where its own groups are kept. Raises `WeightsError`."""
    if quantization != "auto":
        return quantization
    scheme, is_quantized = scheme_of(directory), open_checkpoint(directory, architecture).is_quantized
    if scheme and scheme.kind == "nf4" and device.type == "cuda" and find_spec("bitsandbytes"):
        return "nf4"
    if scheme and not is_quantized:
        told = "config.json of %s names %s, and all of its linears are in full: served in full, as QUANTIZATION=none"
        log.warning(told, directory, scheme.method)
    return "auto" if is_quantized else "none"


def linear_maker(quantization: str, device: torch.device) -> MakeLinear:
    """What makes a linear of a weight in full. Raises `WeightsError` for what `device` does not have."""
    if quantization in ("auto", "none"):
        return PlainLinear
    if quantization not in (*IN_GROUPS, "nf4"):
        raise WeightsError(f"QUANTIZATION={quantization} is not known; choose auto, none, int8, int4 or nf4")
    if quantization in IN_GROUPS:
        return IN_GROUPS[quantization]
    if device.type != "cuda":
        here = f"and this worker runs on {device.type}; choose auto, none, int8 or int4"
        raise WeightsError(f"QUANTIZATION=nf4 needs a GPU, {here}")
    if find_spec("bitsandbytes") is None:
        raise WeightsError("QUANTIZATION=nf4 needs the package bitsandbytes; run `pip install bitsandbytes`")
    return Nf4Linear
