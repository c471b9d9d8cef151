"""A checkpoint's tensors as the decoder's parameters: read one by one, stacked, and put on the device.

Checkpoints are Hugging Face directories with one safetensors file or several under an index.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from inference.model.architecture import Architecture, module_path
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
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    head: Linear

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        return self.embedding.device


class WeightsError(ValueError):
    """A checkpoint that cannot be read as the model it claims to be."""


class Checkpoint:
    """The tensors of a model directory by name, each read when asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files = _files_by_name(directory)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor `name`, which must have `shape`; raises `WeightsError` otherwise."""
        if name not in self._files:
            raise WeightsError(f"{self.directory} has no tensor {name!r}")
        try:
            with safe_open(self._files[name], framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{self._files[name]} cannot be read: {error}") from error
        if tuple(tensor.shape) != shape:
            raise WeightsError(f"tensor {name!r} has shape {tuple(tensor.shape)}; config.json asks for {shape}")
        return tensor


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
        layers = tuple(self._layer(index) for index in range(arch.num_layers))
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
        weights = []
        for target in targets:
            width_in, width_out = self.architecture.target_shape(target)
            weights.append(self._tensor(f"{prefix}.{module_path(target)}.weight", (width_out, width_in)))
        return self.make_linear(torch.cat(weights) if len(weights) > 1 else weights[0])

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self.checkpoint.read(name, shape).to(self.device, self.dtype)


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


def _files_by_name(directory: Path) -> dict[str, Path]:
    """Which file holds which tensor, from the index of a sharded checkpoint or the files' own headers."""
    index = directory / "model.safetensors.index.json"
    if index.exists():
        return _from_index(index)
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{directory} holds no .safetensors file")
    return {name: path for path in files for name in _names(path)}


def _from_index(index: Path) -> dict[str, Path]:
    try:
        names: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError) as error:
        raise WeightsError(f"{index} is not an index of a sharded checkpoint") from error
    missing = sorted({file for file in names.values() if not (index.parent / file).is_file()})
    if missing:
        raise WeightsError(f"{index.parent} lacks {', '.join(missing)}, which its index names")
    return {name: index.parent / file for name, file in names.items()}


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error
