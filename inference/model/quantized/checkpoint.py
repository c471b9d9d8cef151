"""A checkpoint of Hugging Face that is quantised already, in the groups of the decoders or expanded.

Every part of a linear is held to the type and the shape that the linear's own shape and the scheme make it have: one
that only broadcasts would be other weights.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from inference.model.checkpoint import Checkpoint, WeightsError
from inference.model.linear import GROUP, GroupedLinear, Int8Linear, KeptLinear
from inference.model.quantized.bitsandbytes import STATE, FourBits, eight_bits, four_bits
from inference.model.quantized.config import Scheme
from inference.model.quantized.four_bits import Packed, awq, gptq
from inference.reading import shown

_PACKED, _TOPS = "qweight", "SCB"
_FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32)
_STORAGE: Final = (torch.uint8, torch.int8, *_FLOATS)
"""As what bytes of two numbers may be stored (`bnb_4bit_quant_storage`)."""
_WHOLE: Final = (torch.uint8, torch.int32, torch.int64)
_KINDS: Final = ("nf4", "fp4")


class QuantizedCheckpoint(Checkpoint):
    """The tensors of a directory that is quantised by `scheme`. Linears that it left in full are read as they are."""

    def __init__(self, directory: Path, scheme: Scheme) -> None:
        super().__init__(directory)
        self._scheme = scheme

    def __contains__(self, name: str) -> bool:
        return super().__contains__(name) or super().__contains__(_beside(name, _PACKED))

    @property
    def is_quantized(self) -> bool:
        """Whether any is, whatever config.json says."""
        return any(name.endswith((f".{_PACKED}", f".{_TOPS}")) or f".{STATE}" in name for name in self)

    def read(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        found, wanted = self._found(name, shape), dtype or torch.float32
        if found is None:
            return super().read(name, shape, dtype)
        if isinstance(found, Int8Linear):
            return found.dequantized(wanted)
        return torch.cat([piece.to(wanted) for piece in found.dequantized()])

    def kept(self, name: str, shape: tuple[int, ...]) -> KeptLinear | None:
        found = self._found(name, shape)
        if isinstance(found, Packed) and found.groups is None:
            return self._finite(name, found.linear())
        if isinstance(found, Packed):
            return self._finite(name, Int8Linear.stacked([Int8Linear(piece) for piece in found.dequantized()]))
        linear = found.linear() if isinstance(found, FourBits) else found
        return linear and self._finite(name, linear)

    def _found(self, name: str, shape: tuple[int, ...]) -> FourBits | Packed | Int8Linear | None:
        """The weight `name` as it is stored; None where that is in full."""
        if len(shape) != 2:
            return None
        out, width = shape
        for kind in _KINDS:
            if self._has(f"{name}.{STATE}{kind}"):
                return self._four_bits(name, (out, width), kind)
        if self._has(_beside(name, _PACKED)):
            return self._packed(name, out, width)
        return self._eight_bits(name, out, width) if self._has(_beside(name, _TOPS)) else None

    def _four_bits(self, name: str, shape: tuple[int, int], kind: str) -> FourBits:
        def part(beside: str, shape: tuple[int, ...] | None, kinds: Collection[torch.dtype]) -> Tensor:
            return self._part(f"{name}.{beside}", shape, kinds)

        try:
            return four_bits(self._part(name, None, _STORAGE), shape, kind, part)
        except ValueError as error:
            if isinstance(error, WeightsError):
                raise
            raise WeightsError(f"{shown(name)} of {self.directory} cannot be read: {error}; fetch it again") from error

    def _eight_bits(self, name: str, out: int, width: int) -> Int8Linear:
        form = _beside(name, "weight_format")
        if self._has(form) and int(self._part(form, (), _WHOLE)):
            raise WeightsError(f"{name!r} of {self.directory} is in an order of some GPU; save the model again")
        weight = self._part(name, (out, width), (torch.int8,))
        return eight_bits(weight, self._part(_beside(name, _TOPS), (out,), _FLOATS))

    def _packed(self, name: str, out: int, width: int) -> Packed:
        scheme = self._scheme
        if scheme.method not in ("gptq", "awq"):
            raise WeightsError(
                f"{name!r} of {self.directory} is packed as GPTQ and AWQ do it, and config.json says {scheme.method}; "
                "take the config.json that was saved with it"
            )
        group = width if scheme.group == -1 else scheme.group
        if width % group or width % GROUP or out % 8:
            raise WeightsError(
                f"{name!r} of {self.directory} has {width} inputs and {out} outputs, which do not make groups "
                f"of {group} and words of 8; take the model in full, or a GGUF file"
            )
        groups, is_gptq = width // group, scheme.method == "gptq"
        words = self._part(_beside(name, _PACKED), (width // 8, out) if is_gptq else (width, out // 8), (torch.int32,))
        zeros = self._part(_beside(name, "qzeros"), (groups, out // 8), (torch.int32,))
        scales = self._part(_beside(name, "scales"), (groups, out), _FLOATS)
        if not torch.isfinite(scales).all():
            raise self._not_finite(name)
        if not is_gptq:
            return awq(words, zeros, scales)
        return gptq(words, zeros, scales, scheme.zero_offset, self._order(name, width, group))

    def _order(self, name: str, width: int, group: int) -> Tensor | None:
        """The group of each input where they do not follow one another."""
        place, desc_act = _beside(name, "g_idx"), self._scheme.desc_act
        if not self._has(place):
            if desc_act and group < width:
                raise WeightsError(f"{self.directory} says desc_act and has no tensor {shown(place)}; fetch it again")
            return None
        order = self._part(place, (width,), _WHOLE).to(torch.int64)
        told = f"tensor {shown(place)} of {self.directory}"
        if order.min() < 0 or order.max() >= width // group:
            raise WeightsError(
                f"{told} names groups from {int(order.min())} to {int(order.max())}; there are {width // group}, from 0"
            )
        if torch.equal(order, torch.arange(width) // group):
            return None
        if desc_act is False:
            raise WeightsError(f"{told} has inputs out of order, and config.json says desc_act false; fetch both again")
        if (torch.bincount(order) != group).any():
            raise WeightsError(f"{told} has groups of several sizes; each is of {group} inputs, so fetch it again")
        return order

    def _part(self, name: str, shape: tuple[int, ...] | None, kinds: Collection[torch.dtype]) -> Tensor:
        """What is stored as `name`; of any shape if none is given."""
        wanted = tuple(self._raw(name).shape) if shape is None else shape
        return self._stored(name, wanted, kinds, "by config.json it would have")

    def _has(self, name: str) -> bool:
        return super().__contains__(name)

    def _finite(self, name: str, linear: GroupedLinear) -> GroupedLinear:
        if not linear.is_finite:
            raise self._not_finite(name)
        return linear

    def _not_finite(self, name: str) -> WeightsError:
        return WeightsError(f"{name!r} of {self.directory} has scales that are no numbers in float16; fetch it again")


def _beside(name: str, part: str) -> str:
    return f"{name.removesuffix('.weight')}.{part}"
