"""A bias-free linear over a panel of rows, with its weight plain or quantised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional

GROUP: Final = 32
"""Inputs that share a scale: of a row, and of a weight of 4 bits."""
PIECE: Final = 1 << 20
"""Weights that are converted at once, of which passing copies are made."""
TINY: Final = 1e-7
"""The least scale: above zero, by which nothing can be divided, and a number in float16."""


class Linear(Protocol):
    """Anything that maps rows [n, in] to [n, out]."""

    def __call__(self, rows: Tensor) -> Tensor: ...


class LateLinear:
    """A linear that is read whenever it is asked for, and kept by nobody."""

    def __init__(self, read: Callable[[], Linear]) -> None:
        self.read = read

    def __call__(self, rows: Tensor) -> Tensor:
        return self.read()(rows)


class PlainLinear:
    """rows @ weight.T with `weight` [out, in]."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def outputs(self, part: slice) -> PlainLinear:
        """The linear to this part of the outputs."""
        return PlainLinear(self.weight[part])

    def on(self, device: torch.device) -> PlainLinear:
        """The same on `device`."""
        return PlainLinear(self.weight.to(device))

    def __call__(self, rows: Tensor) -> Tensor:
        return functional.linear(rows, self.weight)


def in_levels(rows: Tensor) -> Tensor:
    """`rows` [n, in] as products with quantised weights see them, float32: every `GROUP` inputs of a row are integers
    from -127 to 127 under a scale of their own. One scale for a whole row cost up to 4 points of a task's score: a row
    has a few numbers that are far larger than the rest."""
    groups = _in_groups(rows)
    tops = groups.abs().amax(dim=2, keepdim=True)
    levels = (groups * torch.where(tops > 0, 127 / tops, 0)).round()
    return (levels * (tops / 127)).flatten(1)


class Int8Linear:
    """The same in 8 bits: groups of `GROUP` inputs of an output share a scale, as in GGUF's Q8_0.

    `weight` int8 [out, in]; `scales` float16 [out, in / GROUP]. `quantizes_rows`: rows go through `in_levels`, as on
    processors that multiply bytes. A GPU takes them as they are.
    """

    def __init__(self, weight: Tensor) -> None:
        self.quantizes_rows = weight.device.type == "cpu"
        self.weight, self.scales = _in_pieces(weight, self._quantized)

    @classmethod
    def of_levels(cls, levels: Tensor, scales: Tensor) -> Int8Linear:
        """Of weights that are in 8 bits already: `levels` int8 [out, in] and `scales` as they are kept."""
        linear = cls.__new__(cls)
        linear.quantizes_rows, linear.weight, linear.scales = levels.device.type == "cpu", levels, scales
        return linear

    @classmethod
    def stacked(cls, linears: Sequence[Int8Linear]) -> Int8Linear:
        """Linears of the same inputs as one, their outputs behind one another."""
        return cls.of_levels(*map(torch.cat, zip(*((each.weight, each.scales) for each in linears), strict=True)))

    @staticmethod
    def _quantized(groups: Tensor) -> tuple[Tensor, Tensor]:
        scales = (groups.abs().amax(dim=2) / 127).clamp(min=TINY).to(torch.float16)
        levels = (groups / scales[..., None].float()).round().clamp(-127, 127)
        return levels.to(torch.int8).flatten(1), scales

    def __call__(self, rows: Tensor) -> Tensor:
        return _linear(rows, self)

    def outputs(self, part: slice) -> Int8Linear:
        """The linear to this part of the outputs."""
        return self.of_levels(self.weight[part], self.scales[part])

    def on(self, device: torch.device) -> Int8Linear:
        """The same on `device`."""
        return self.of_levels(self.weight.to(device), self.scales.to(device))

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight [out, in] that products see."""
        return (_in_groups(self.weight) * self.scales[..., None].float()).flatten(1).to(dtype)


class Int4Linear:
    """The same in 4 bits: groups of `GROUP` inputs of an output share a scale and a minimum, as in GGUF's Q4_1.

    `weight` uint8 [out, in / 2] holds two inputs a byte, the even one low; `scales` and `mins` are float16
    [out, in / GROUP]. Weights that were in such groups before come back as they were. `quantizes_rows` as in
    `Int8Linear`.
    """

    def __init__(self, weight: Tensor) -> None:
        self.quantizes_rows = weight.device.type == "cpu"
        self.weight, self.scales, self.mins = _in_pieces(weight, self._quantized)

    @classmethod
    def of_levels(cls, levels: Tensor, scales: Tensor, mins: Tensor) -> Int4Linear:
        """Of weights that are in 4 bits already: `levels` uint8 [out, in] from 0 to 15, `scales` and `mins` as they are
        kept."""
        return cls._of(_paired(levels), scales, mins)

    @classmethod
    def _of(cls, weight: Tensor, scales: Tensor, mins: Tensor) -> Int4Linear:
        linear = cls.__new__(cls)
        linear.quantizes_rows = weight.device.type == "cpu"
        linear.weight, linear.scales, linear.mins = weight, scales, mins
        return linear

    @classmethod
    def stacked(cls, linears: Sequence[Int4Linear]) -> Int4Linear:
        """Linears of the same inputs as one, their outputs behind one another."""
        parts = zip(*((each.weight, each.scales, each.mins) for each in linears), strict=True)
        return cls._of(*map(torch.cat, parts))

    @staticmethod
    def _quantized(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mins = groups.amin(dim=2).to(torch.float16)
        scales = ((groups.amax(dim=2) - mins) / 15).clamp(min=TINY).to(torch.float16)
        levels = ((groups - mins[..., None].float()) / scales[..., None].float()).round().clamp(0, 15)
        return _paired(levels.to(torch.uint8).flatten(1)), scales, mins

    def __call__(self, rows: Tensor) -> Tensor:
        return _linear(rows, self)

    def outputs(self, part: slice) -> Int4Linear:
        """The linear to this part of the outputs."""
        return self._of(self.weight[part], self.scales[part], self.mins[part])

    def on(self, device: torch.device) -> Int4Linear:
        """The same on `device`."""
        return self._of(*(part.to(device) for part in (self.weight, self.scales, self.mins)))

    def levels(self) -> Tensor:
        """uint8 [out, in], from 0 to 15."""
        return torch.stack((self.weight & 15, self.weight >> 4), dim=2).flatten(1)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight [out, in] that products see."""
        groups = _in_groups(self.levels()) * self.scales[..., None].float() + self.mins[..., None].float()
        return groups.flatten(1).to(dtype)


KeptLinear = PlainLinear | Int8Linear | Int4Linear
"""What a checkpoint may hold."""


def stack_linears(linears: Sequence[KeptLinear], dtype: torch.dtype) -> KeptLinear:
    """Linears of the same inputs as one, their outputs behind one another, in the finest form among them: plain in
    `dtype`, in 8 bits or in 4."""
    if len(linears) == 1:
        return linears[0]
    if all(isinstance(linear, Int4Linear) for linear in linears):
        return Int4Linear.stacked([linear for linear in linears if isinstance(linear, Int4Linear)])
    if all(isinstance(linear, Int8Linear | Int4Linear) for linear in linears):
        return Int8Linear.stacked([_in_eight_bits(linear) for linear in linears])
    return PlainLinear(torch.cat([_plain(linear, dtype) for linear in linears]))


def _in_eight_bits(linear: KeptLinear) -> Int8Linear:
    return linear if isinstance(linear, Int8Linear) else Int8Linear(_plain(linear, torch.float32))


def _plain(linear: KeptLinear, dtype: torch.dtype) -> Tensor:
    return linear.weight.to(dtype) if isinstance(linear, PlainLinear) else linear.dequantized(dtype)


def _paired(levels: Tensor) -> Tensor:
    return levels[:, ::2] | levels[:, 1::2] << 4


def _in_pieces(weight: Tensor, quantized: Callable[[Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """What `quantized` makes of `weight` [out, in] in groups, some outputs at a time: groups are in float32, of which
    there is never more than a piece."""
    pieces = weight.split(max(1, PIECE // weight.shape[1]))
    return tuple(torch.cat(parts) for parts in zip(*(quantized(_in_groups(piece)) for piece in pieces), strict=True))


def _in_groups(weight: Tensor) -> Tensor:
    """float32 [out, in / GROUP, GROUP]."""
    into = weight.shape[1]
    if into % GROUP:
        raise ValueError(f"8 and 4 bits come in groups of {GROUP} inputs, and this linear has {into}; choose none")
    return weight.to(torch.float32).unflatten(1, (-1, GROUP))


def _linear(rows: Tensor, linear: Int8Linear | Int4Linear) -> Tensor:
    if not linear.quantizes_rows:
        return functional.linear(rows, linear.dequantized(rows.dtype))
    return functional.linear(in_levels(rows), linear.dequantized(torch.float32)).to(rows.dtype)


class Nf4Linear:
    """The same with `weight` kept in 4-bit NF4 (Dettmers et al., 2023), expanded as it is used. CUDA only.

    Raises ImportError when bitsandbytes is not installed.
    """

    def __init__(self, weight: Tensor) -> None:
        # A GPU-only dependency, imported by whoever asks for it.
        from bitsandbytes import functional as bitsandbytes_functional
        from bitsandbytes import matmul_4bit

        self._matmul = matmul_4bit
        self._packed, self._state = bitsandbytes_functional.quantize_4bit(weight.contiguous(), quant_type="nf4")

    def __call__(self, rows: Tensor) -> Tensor:
        out: Tensor = self._matmul(rows, self._packed.t(), quant_state=self._state)
        return out
