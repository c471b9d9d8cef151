"""A checkpoint's tensors as the decoder's parameters: read one by one, stacked, and put on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final, overload

import torch
from torch import Tensor

from inference.model.architecture import Architecture, module_path
from inference.model.checkpoint import Checkpoint, WeightsError
from inference.model.heap import trim_heap
from inference.model.linear import Int4Linear, Int8Linear, Linear, Nf4Linear, PlainLinear

MakeLinear = Callable[[Tensor], Linear]
_ON_CPU: Final[dict[str, MakeLinear]] = {"int8": Int8Linear, "int4": Int4Linear}


@dataclass(frozen=True)
class LayerWeights:
    """One layer: norms [hidden]; `qkv` stacks the three projections of attention, `gate_up` the two of the MLP."""

    attention_norm: Tensor
    qkv: Linear
    o: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True)
class DecoderWeights:
    """Everything a decoder knows: `embedding` [vocab, hidden], the layers, the last norm, and the head to the vocab."""

    embedding: Tensor
    layers: Sequence[LayerWeights]
    norm: Tensor
    head: Linear

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def held(self) -> DecoderWeights:
        """The same with all layers in memory."""
        return replace(self, layers=tuple(self.layers))


class _Streamed(Sequence[LayerWeights]):
    """Layers that are read whenever they are asked for, and kept by nobody."""

    def __init__(self, read: Callable[[int], LayerWeights], count: int) -> None:
        self._read, self._count = read, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> LayerWeights: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LayerWeights]: ...
    def __getitem__(self, index: int | slice) -> LayerWeights | Sequence[LayerWeights]:
        numbers = range(self._count)[index]
        return self._read(numbers) if isinstance(numbers, int) else tuple(map(self._read, numbers))


def load_weights(
    directory: Path,
    architecture: Architecture,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    quantization: str = "none",
) -> DecoderWeights:
    """Read the checkpoint in `directory` as `dtype` onto `device`, its linears quantised as `quantization` says.

    Raises `WeightsError` for a missing, damaged or misshapen tensor.
    """
    return stream_weights(directory, architecture, dtype, device, quantization).held()


def stream_weights(
    directory: Path,
    architecture: Architecture,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    quantization: str = "none",
) -> DecoderWeights:
    """The same, but a layer is read whenever it is asked for: who converts them one after the other never has two.

    Its errors come with the layers.
    """
    make_linear = _linear_maker(quantization, torch.device(device))
    return _Reader(Checkpoint(directory), architecture, dtype, torch.device(device), make_linear).decoder()


@dataclass(frozen=True)
class _Reader:
    checkpoint: Checkpoint
    architecture: Architecture
    dtype: torch.dtype
    device: torch.device
    make_linear: MakeLinear

    def decoder(self) -> DecoderWeights:
        arch, table = self.architecture, (self.architecture.vocab_size, self.architecture.hidden_size)
        embedding = self._tensor("model.embed_tokens.weight", table)
        layers = _Streamed(self._layer, arch.num_layers)
        norm = self._tensor("model.norm.weight", (arch.hidden_size,))
        head = embedding if arch.tied_embeddings else self._tensor("lm_head.weight", table)
        # The head has 8 bits at least: the most of the error of a 4-bit model would be its.
        make_head = Int8Linear if self.make_linear in _ON_CPU.values() else PlainLinear
        return DecoderWeights(embedding, layers, norm, make_head(head))

    def _layer(self, index: int) -> LayerWeights:
        prefix, hidden = f"model.layers.{index}", (self.architecture.hidden_size,)
        return LayerWeights(
            attention_norm=self._tensor(f"{prefix}.input_layernorm.weight", hidden),
            qkv=self._linear(prefix, "q_proj", "k_proj", "v_proj"),
            o=self._linear(prefix, "o_proj"),
            mlp_norm=self._tensor(f"{prefix}.post_attention_layernorm.weight", hidden),
            gate_up=self._linear(prefix, "gate_proj", "up_proj"),
            down=self._linear(prefix, "down_proj"),
        )

    def _linear(self, prefix: str, *targets: str) -> Linear:
        trim_heap()
        weights = []
        for target in targets:
            width_in, width_out = self.architecture.target_shape(target)
            weights.append(self._tensor(f"{prefix}.{module_path(target)}.weight", (width_out, width_in)))
        return self.make_linear(torch.cat(weights) if len(weights) > 1 else weights[0])

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self.checkpoint.read(name, shape, self.dtype).to(self.device)


def _linear_maker(quantization: str, device: torch.device) -> MakeLinear:
    if quantization == "none":
        return PlainLinear
    if quantization not in (*_ON_CPU, "nf4"):
        raise WeightsError(f"QUANTIZATION={quantization} is not known; choose none, int8, int4 or nf4")
    if (quantization == "nf4") != (device.type == "cuda"):
        wanted, other = ("a GPU", "int8 or int4") if quantization == "nf4" else ("a CPU", "nf4")
        here = f"and this worker runs on {device.type}"
        raise WeightsError(f"QUANTIZATION={quantization} needs {wanted}, {here}; choose none or {other}")
    if quantization in _ON_CPU:
        return _ON_CPU[quantization]
    if find_spec("bitsandbytes") is None:
        raise WeightsError("QUANTIZATION=nf4 needs the package bitsandbytes; run `pip install bitsandbytes`")
    return Nf4Linear
