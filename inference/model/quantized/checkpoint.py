"""A checkpoint of Hugging Face that is quantised already, in the groups of the decoders or expanded."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from inference.model.checkpoint import Checkpoint, WeightsError
from inference.model.linear import GROUP, Int4Linear, Int8Linear, KeptLinear
from inference.model.quantized.bitsandbytes import STATE, FourBits, eight_bits, four_bits
from inference.model.quantized.config import Scheme
from inference.model.quantized.four_bits import awq_linear, gptq_linear


class QuantizedCheckpoint(Checkpoint):
    """The tensors of a directory that is quantised by `scheme`. Linears that it left in full are read as they are."""

    def __init__(self, directory: Path, scheme: Scheme) -> None:
        super().__init__(directory)
        self._scheme = scheme

    def __contains__(self, name: str) -> bool:
        return super().__contains__(name) or super().__contains__(self._packed(name))

    @property
    def is_quantized(self) -> bool:
        return True

    def read(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        wanted = dtype or torch.float32
        if self._is_in_four(name):
            return torch.cat([piece.to(wanted) for piece in self._four_bits(name, shape).dequantized()])
        linear = self.kept(name, shape)
        if linear is None:
            return super().read(name, shape, dtype)
        assert isinstance(linear, Int8Linear | Int4Linear), "what is kept is quantised"
        return linear.dequantized(wanted)

    def kept(self, name: str, shape: tuple[int, ...]) -> KeptLinear | None:
        if self._is_in_four(name):
            return Int8Linear.stacked([Int8Linear(piece) for piece in self._four_bits(name, shape).dequantized()])
        if super().__contains__(self._packed(name)):
            return self._checked(name, shape, self._in_groups(name))
        if super().__contains__(self._beside(name, "SCB")):
            return self._checked(name, shape, self._in_eight(name))
        return None

    def _in_eight(self, name: str) -> Int8Linear:
        form = self._beside(name, "weight_format")
        if super().__contains__(form) and int(self._raw(form)):
            raise WeightsError(f"{name!r} of {self.directory} is in an order of some GPU; save the model again")
        return eight_bits(self._raw(name), self._raw(self._beside(name, "SCB")))

    def _in_groups(self, name: str) -> Int4Linear:
        words, zeros, scales = (self._raw(self._beside(name, part)) for part in ("qweight", "qzeros", "scales"))
        width = words.shape[0] * (8 if self._scheme.method == "gptq" else 1)
        self._check_groups(name, width, len(scales))
        if self._scheme.method == "awq":
            return awq_linear(words, zeros, scales)
        return gptq_linear(words, zeros, scales, self._scheme.zero_offset)

    def _check_groups(self, name: str, width: int, groups: int) -> None:
        group = width if self._scheme.group == -1 else self._scheme.group
        if width % group or width // group != groups or width % GROUP:
            raise WeightsError(
                f"{name!r} of {self.directory} has {groups} groups; {width} inputs make groups of {group}"
            )
        order = self._beside(name, "g_idx")
        if super().__contains__(order) and not torch.equal(self._raw(order).long(), torch.arange(width) // group):
            raise WeightsError(
                f"{name!r} of {self.directory} has its inputs in the order of their size (desc_act): that is not read "
                "here; take a copy without desc_act, or a GGUF file"
            )

    def _four_bits(self, name: str, shape: tuple[int, ...]) -> FourBits:
        states = (f"{name}.{STATE}{kind}" for kind in ("nf4", "fp4"))
        state = next(state for state in states if super(QuantizedCheckpoint, self).__contains__(state))
        try:
            found = four_bits(self._raw(name), lambda part: self._raw(f"{name}.{part}"), state.removeprefix(f"{name}."))
        except (ValueError, KeyError) as error:
            raise WeightsError(f"{name!r} of {self.directory} cannot be read: {error}") from error
        self._check_shape(name, shape, found.shape)
        return found

    def _checked(self, name: str, shape: tuple[int, ...], linear: Int8Linear | Int4Linear) -> KeptLinear:
        width = linear.weight.shape[1] * (2 if isinstance(linear, Int4Linear) else 1)
        self._check_shape(name, shape, (linear.weight.shape[0], width))
        parts = (linear.scales, linear.mins) if isinstance(linear, Int4Linear) else (linear.scales,)
        if not all(torch.isfinite(part).all() for part in parts):
            raise WeightsError(
                f"{name!r} of {self.directory} has scales that are no numbers in float16; fetch it again"
            )
        return linear

    def _check_shape(self, name: str, wanted: tuple[int, ...], found: tuple[int, ...]) -> None:
        if found != wanted:
            raise WeightsError(f"tensor {name!r} has shape {found}; config.json asks for {wanted}")

    def _is_in_four(self, name: str) -> bool:
        return any(super(QuantizedCheckpoint, self).__contains__(f"{name}.{STATE}{kind}") for kind in ("nf4", "fp4"))

    def _packed(self, name: str) -> str:
        return self._beside(name, "qweight")

    def _beside(self, name: str, part: str) -> str:
        return f"{name.removesuffix('.weight')}.{part}"
