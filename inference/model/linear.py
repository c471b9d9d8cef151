"""A bias-free linear over a panel of rows, with its weight plain or quantised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, Protocol, Self

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


class GroupedLinear(ABC):
    """A linear in few bits: groups of `GROUP` inputs of an output share a scale. Its parts lie output behind output.

    `quantizes_rows`: rows go through `in_levels`, as on processors that multiply bytes. A GPU takes them as they are.
    """

    PARTS: tuple[str, ...] = ("weight", "scales")
    HAS_KERNELS = True
    weight: Tensor
    scales: Tensor
    quantizes_rows: bool

    def __init__(self, weight: Tensor) -> None:
        """Quantise a `weight` [out, in]."""
        self._hold(*_in_pieces(weight, self._quantized))

    @classmethod
    def of_parts(cls, *parts: Tensor) -> Self:
        """Of what is in this form already."""
        linear = cls.__new__(cls)
        linear._hold(*parts)
        return linear

    @classmethod
    def stacked(cls, linears: Sequence[Self]) -> Self:
        """Linears of the same inputs as one, their outputs behind one another."""
        return cls.of_parts(*map(torch.cat, zip(*(each.parts for each in linears), strict=True)))

    @property
    def parts(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name) for name in self.PARTS)

    @property
    def is_finite(self) -> bool:
        """Whether its scales and minima are numbers."""
        return all(bool(torch.isfinite(part).all()) for part in self.parts if part.is_floating_point())

    def outputs(self, part: slice) -> Self:
        """The linear to this part of the outputs."""
        return self.of_parts(*(each[part] for each in self.parts))

    def on(self, device: torch.device) -> GroupedLinear:
        """The same on `device`; in 8 bits on a GPU whose kernels have no such form."""
        if device.type == "cuda" and not self.HAS_KERNELS:
            return _in_eight_bits(self).on(device)
        return self.of_parts(*(part.to(device) for part in self.parts))

    def __call__(self, rows: Tensor) -> Tensor:
        if not self.quantizes_rows:
            return functional.linear(rows, self.dequantized(rows.dtype))
        return functional.linear(in_levels(rows), self.dequantized(torch.float32)).to(rows.dtype)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight [out, in] that products see."""
        return self._groups().flatten(1).to(dtype)

    @abstractmethod
    def _groups(self) -> Tensor:
        """The weights, float32 [out, in / GROUP, GROUP]."""

    @staticmethod
    def _quantized(groups: Tensor) -> tuple[Tensor, ...]:
        """The parts for weights in such groups."""
        raise NotImplementedError("nothing is quantised to this form here")

    def _hold(self, *parts: Tensor) -> None:
        self.quantizes_rows = parts[0].device.type == "cpu"
        for name, part in zip(self.PARTS, parts, strict=True):
            setattr(self, name, part)


class Int8Linear(GroupedLinear):
    """In 8 bits, as in GGUF's Q8_0: `weight` int8 [out, in]; `scales` float16 [out, in / GROUP]."""

    @staticmethod
    def _quantized(groups: Tensor) -> tuple[Tensor, ...]:
        scales = (groups.abs().amax(dim=2) / 127).clamp(min=TINY).to(torch.float16)
        levels = (groups / scales[..., None].float()).round().clamp(-127, 127)
        return levels.to(torch.int8).flatten(1), scales

    def _groups(self) -> Tensor:
        return _in_groups(self.weight) * self.scales[..., None].float()


class MinimaLinear(GroupedLinear):
    """In few bits from a minimum of each group on: a weight is its level times the scale, plus `mins` float16
    [out, in / GROUP]."""

    PARTS: tuple[str, ...] = ("weight", "scales", "mins")
    mins: Tensor

    @classmethod
    @abstractmethod
    def of_levels(cls, levels: Tensor, scales: Tensor, mins: Tensor) -> Self:
        """Of weights that are in such bits already: `levels` uint8 [out, in] from 0 on."""

    @abstractmethod
    def levels(self) -> Tensor:
        """uint8 [out, in]."""

    def _groups(self) -> Tensor:
        return _in_groups(self.levels()) * self.scales[..., None].float() + self.mins[..., None].float()


class Int4Linear(MinimaLinear):
    """In 4 bits, as in GGUF's Q4_1.

    `weight` uint8 [out, in / 2] holds two inputs a byte, the even one low; `scales` are float16 [out, in / GROUP].
    Weights that were in such groups before come back as they were.
    """

    @classmethod
    def of_levels(cls, levels: Tensor, scales: Tensor, mins: Tensor) -> Self:
        return cls.of_parts(_paired(levels), scales, mins)

    @staticmethod
    def _quantized(groups: Tensor) -> tuple[Tensor, ...]:
        mins = groups.amin(dim=2).to(torch.float16)
        scales = ((groups.amax(dim=2) - mins) / 15).clamp(min=TINY).to(torch.float16)
        levels = ((groups - mins[..., None].float()) / scales[..., None].float()).round().clamp(0, 15)
        return _paired(levels.to(torch.uint8).flatten(1)), scales, mins

    def levels(self) -> Tensor:
        return _apart(self.weight)


class Int5Linear(MinimaLinear):
    """The same in 5 bits, as in GGUF's Q5_1: the fifth of eight inputs are a byte of `fifths` uint8 [out, in / 8], the
    first one lowest."""

    PARTS = ("weight", "scales", "mins", "fifths")
    HAS_KERNELS = False
    fifths: Tensor

    @classmethod
    def of_levels(cls, levels: Tensor, scales: Tensor, mins: Tensor) -> Self:
        places = torch.arange(8, dtype=torch.uint8)
        fifths = ((levels >> 4).unflatten(1, (-1, 8)) << places).sum(dim=2, dtype=torch.uint8)
        return cls.of_parts(_paired(levels & 15), scales, mins, fifths)

    def levels(self) -> Tensor:
        places = torch.arange(8, dtype=torch.uint8, device=self.fifths.device)
        return _apart(self.weight) | (self.fifths[..., None] >> places & 1).flatten(1) << 4


class CodedLinear(GroupedLinear):
    """In 4 bits of NF4 (Dettmers et al., 2023): a level is a place in `CODES`, whose values are rounded to 124ths:
    of all up to 127 they are the nearest.

    `weight` and `scales` as of `Int4Linear`; a scale is the 124th part of the largest number of its group.
    """

    HAS_KERNELS = False
    CODES: Final = (-124, -86, -65, -49, -35, -23, -11, 0, 10, 20, 31, 42, 55, 70, 90, 124)

    def levels(self) -> Tensor:
        """uint8 [out, in], from 0 to 15."""
        return _apart(self.weight)

    def _groups(self) -> Tensor:
        codes = torch.tensor(self.CODES, dtype=torch.float32, device=self.weight.device)
        return _in_groups(codes[self.levels().to(torch.int32)]) * self.scales[..., None].float()


KeptLinear = PlainLinear | GroupedLinear
"""What a checkpoint may hold."""


def stack_linears(linears: Sequence[KeptLinear], dtype: torch.dtype) -> KeptLinear:
    """Linears of the same inputs as one, their outputs behind one another: in the form that all have, else in 8 bits,
    and plain in `dtype` if one of them is."""
    if len(linears) == 1:
        return linears[0]
    grouped = [linear for linear in linears if isinstance(linear, GroupedLinear)]
    if len(grouped) < len(linears):
        return PlainLinear(torch.cat([_plain(linear, dtype) for linear in linears]))
    kinds = {type(linear) for linear in grouped}
    if len(kinds) == 1:
        return kinds.pop().stacked(grouped)
    return Int8Linear.stacked([_in_eight_bits(linear) for linear in grouped])


def _in_eight_bits(linear: GroupedLinear) -> Int8Linear:
    return linear if isinstance(linear, Int8Linear) else Int8Linear(linear.dequantized(torch.float32))


def _plain(linear: KeptLinear, dtype: torch.dtype) -> Tensor:
    return linear.weight.to(dtype) if isinstance(linear, PlainLinear) else linear.dequantized(dtype)


def _paired(levels: Tensor) -> Tensor:
    return levels[:, ::2] | levels[:, 1::2] << 4


def _apart(pairs: Tensor) -> Tensor:
    return torch.stack((pairs & 15, pairs >> 4), dim=2).flatten(1)


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
