"""Tiny models whose linears are quantised as GPTQ, AWQ and bitsandbytes save them, beside the same models in full."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.model.linear import CodedLinear, Int4Linear, Int8Linear

LINEAR = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+\.weight")
Tensors = dict[str, torch.Tensor]
Quantize = Callable[[torch.Tensor], tuple[Tensors, torch.Tensor]]


def save_quantized(
    model: Path, directory: Path, config: dict[str, Any], quantize: Quantize, left: str = "(?!)"
) -> None:
    """Save the model in `model` with its linears but `left` as `quantize` makes them, and in `model` what they stand
    for."""
    tensors, full = Tensors(), Tensors()
    for name, weight in load_file(model / "model.safetensors").items():
        if not LINEAR.fullmatch(name) or weight.dim() != 2 or re.search(left, name):
            tensors[name] = full[name] = weight
            continue
        parts, full[name] = quantize(weight)
        tensors |= {name.removesuffix("weight") + part: tensor for part, tensor in parts.items()}
    save_file(
        {name: tensor.contiguous() for name, tensor in full.items()}, model / "model.safetensors", {"format": "pt"}
    )
    directory.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    told = json.loads((model / "config.json").read_text()) | {"quantization_config": config}
    (directory / "config.json").write_text(json.dumps(told))


def groups_of(weight: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Levels [out, in], zeros and float16 scales [out, groups] in 4 bits, and the weight that they stand for."""
    out, width = weight.shape
    grouped = weight.view(out, -1, width if group == -1 else group)
    low, high = grouped.amin(2).clamp(max=0), grouped.amax(2).clamp(min=0)
    scales = ((high - low) / 15).half()
    zeros = (-low / scales.float()).round().clamp(1, 15)
    levels = (grouped / scales.float()[..., None] + zeros[..., None]).round().clamp(0, 15)
    full = (levels - zeros[..., None]) * scales.float()[..., None]
    return levels.view(out, width).int(), zeros.int(), scales, full.view(out, width)


def pack_rows(levels: torch.Tensor) -> torch.Tensor:
    """[in, out] as int32 [in / 8, out], the first input lowest."""
    words = levels.view(-1, 8, levels.shape[1])
    return torch.stack([words[:, n] << 4 * n for n in range(8)]).sum(0).int()


def pack_columns(levels: torch.Tensor, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """[n, out] as int32 [n, out / 8], nibble i being output `order`[i]."""
    words = levels.view(len(levels), -1, 8)
    return torch.stack([words[..., output] << 4 * n for n, output in enumerate(order)]).sum(0).int()


def gptq(group: int, offset: int = 1) -> Quantize:
    def quantize(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        levels, zeros, scales, full = groups_of(weight, group)
        width = weight.shape[1]
        order = torch.arange(width, dtype=torch.int32) // (width if group == -1 else group)
        parts = {
            "qweight": pack_rows(levels.t()),
            "qzeros": pack_columns((zeros - offset).t().contiguous()),
            "scales": scales.t(),
            "g_idx": order,
        }
        return parts, full

    return quantize


def ordered(group: int) -> Quantize:
    """GPTQ whose groups are of inputs that are not beside each other (desc_act)."""

    def quantize(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        width = weight.shape[1]
        order = torch.randperm(width, generator=torch.Generator().manual_seed(width))
        parts, full = gptq(group)(weight[:, order])
        back = order.argsort()
        words = pack_rows(unpack_rows(parts["qweight"])[back])
        return parts | {"qweight": words, "g_idx": parts["g_idx"][back]}, full[:, back]

    return quantize


def unpack_rows(words: torch.Tensor) -> torch.Tensor:
    """int32 [in / 8, out] as [in, out]."""
    return torch.stack([words >> 4 * n & 15 for n in range(8)], dim=1).flatten(0, 1)


def awq(group: int) -> Quantize:
    def quantize(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        levels, zeros, scales, full = groups_of(weight, group)
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        parts = {
            "qweight": pack_columns(levels.t().contiguous(), order),
            "qzeros": pack_columns(zeros.t().contiguous(), order),
            "scales": scales.t(),
        }
        return parts, full

    return quantize


def four_bits(kind: str, nested: bool) -> Quantize:
    functional = pytest.importorskip("bitsandbytes").functional

    def quantize(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        packed, state = functional.quantize_4bit(weight, quant_type=kind, compress_statistics=nested)
        parts = {f"weight.{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
        return {"weight": packed} | parts, functional.dequantize_4bit(packed, state).float()

    return quantize


def eight_bits(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    tops = weight.abs().amax(1)
    levels = (weight * 127 / tops[:, None]).round().to(torch.int8)
    parts = {"weight": levels, "SCB": tops, "weight_format": torch.zeros((), dtype=torch.uint8)}
    return parts, levels * tops[:, None] / 127


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
EIGHT = {"quant_method": "bitsandbytes", "load_in_8bit": True}
KINDS: dict[str, tuple[dict[str, Any], Callable[[], Quantize], type, float]] = {
    "gptq": (GPTQ, lambda: gptq(32), Int4Linear, 6e-4),
    "gptq of 128": (GPTQ | {"group_size": 128}, lambda: gptq(128), Int4Linear, 6e-4),
    "gptq of a whole row": (GPTQ | {"group_size": -1}, lambda: gptq(-1), Int4Linear, 6e-4),
    "gptq, desc_act": (GPTQ | {"desc_act": True}, lambda: ordered(32), Int8Linear, 6e-3),
    "gptq_v2": (GPTQ | {"checkpoint_format": "gptq_v2"}, lambda: gptq(32, 0), Int4Linear, 6e-4),
    "awq": (AWQ, lambda: awq(32), Int4Linear, 6e-4),
    "awq of 128": (AWQ | {"group_size": 128}, lambda: awq(128), Int4Linear, 6e-4),
    "nf4": (NF4, lambda: four_bits("nf4", False), CodedLinear, 6e-3),
    "nested nf4": (NF4, lambda: four_bits("nf4", True), CodedLinear, 6e-3),
    "fp4": (NF4 | {"bnb_4bit_quant_type": "fp4"}, lambda: four_bits("fp4", True), Int8Linear, 6e-3),
    "llm.int8": (EIGHT, lambda: eight_bits, Int8Linear, 4e-4),
}
"""The config, what makes the tensors, the form that is kept, and how far its weights may be from the file's."""
