"""A checkpoint's tensors as the decoder's parameters: read one by one, stacked, and put on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar, overload

import torch
from torch import Tensor

from inference.model.architecture import EMBEDDING, Architecture
from inference.model.biases import norm_paths, norm_width
from inference.model.checkpoint import Checkpoint, Table
from inference.model.checkpoints import open_checkpoint, with_own_head
from inference.model.heap import trim_heap
from inference.model.linear import Int8Linear, KeptLinear, LateLinear, Linear, PlainLinear, stack_linears
from inference.model.quantization import IN_GROUPS, MakeLinear, linear_maker
from inference.model.spec import GATE_UP, HEAD, LAST_NORM, NORMS, QKV, HeadNorm, Norm, NormPlace
from inference.model.stage import Stage, whole
from inference.model.tensor_names import check_tensors

_Part = TypeVar("_Part", PlainLinear, KeptLinear)


@dataclass(frozen=True)
class LayerWeights:
    """One layer: norms [hidden]; `qkv` stacks the three projections of attention, `gate_up` the two of the MLP or,
    where it has no gate, the one.

    A LayerNorm's weight and bias are one tensor [2, hidden]. Where norms stand behind attention and MLP alone,
    `attention_norm` and `mlp_norm` are these. Norms of queries and keys are [heads, head_dim], with one head where all
    share it, or [heads * head_dim] if they are normed whole. A bias is [out], and None where its linear has none.
    """

    attention_norm: Tensor
    qkv: Linear
    o: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear
    attention_out_norm: Tensor | None = None
    mlp_out_norm: Tensor | None = None
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    qkv_bias: Tensor | None = None
    o_bias: Tensor | None = None
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None


@dataclass(frozen=True)
class DecoderWeights:
    """Everything a decoder knows: `embedding` [vocab, hidden], the layers, the last norm, and the head to the vocab.

    The embedding may be read row by row from its file, on a CPU. Of a stage there are its own layers; without the
    embedding that has no rows, without the head that has no outputs.
    """

    embedding: Tensor | Table
    layers: Sequence[LayerWeights]
    norm: Tensor
    head: Linear
    head_bias: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def held(self) -> DecoderWeights:
        """The same with all of it in memory."""
        head = self.head.read() if isinstance(self.head, LateLinear) else self.head
        return replace(self, layers=tuple(self.layers), head=head)


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
    """Read the checkpoint in `directory` as `dtype` onto `device`, its linears quantised as `quantization` says: `auto`
    keeps those in fewer bits that are so in the checkpoint, and with `none` all are in full.

    Raises `WeightsError` for a missing, damaged or misshapen tensor.
    """
    return stream_weights(directory, architecture, dtype, device, quantization).held()


def stream_weights(
    directory: Path,
    architecture: Architecture,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    quantization: str = "none",
    stage: Stage | None = None,
) -> DecoderWeights:
    """The same, of `stage` alone where one is named, but a layer or the head is read whenever it is asked for: who
    converts them one after the other never has two. Errors come with them, but for tensors that are not there.
    """
    architecture = with_own_head(directory, architecture)
    stage = stage or whole(architecture)
    checkpoint, place = open_checkpoint(directory, architecture), torch.device(device)
    check_tensors(checkpoint, architecture)
    keeps = quantization == "auto" and checkpoint.is_quantized
    make_linear = linear_maker(quantization, place)
    return _Reader(checkpoint, architecture, dtype, place, make_linear, keeps, stage).decoder()


def read_linear(
    checkpoint: Checkpoint, architecture: Architecture, layer: int, targets: Sequence[str], dtype: torch.dtype
) -> Tensor:
    """The weights of `targets` of `layer` one below the other, [out, in], as `checkpoint` has them; of the embedding
    [vocab, hidden]. Raises `WeightsError`."""
    if EMBEDDING in targets:
        return checkpoint.read(f"model.{EMBEDDING}.weight", architecture.target_shape(EMBEDDING), dtype)

    def read(name: str, shape: tuple[int, int]) -> PlainLinear:
        return PlainLinear(checkpoint.read(name, shape, dtype))

    rows = [linear.weight for linear in _read_parts(architecture, layer, targets, read)]
    return torch.cat(rows) if len(rows) > 1 else rows[0]


def keep_linear(
    checkpoint: Checkpoint, architecture: Architecture, layer: int, targets: Sequence[str], dtype: torch.dtype
) -> KeptLinear:
    """The linear to `targets` of `layer`, its groups as `checkpoint` has them. What is in full there is in `dtype`."""

    def read(name: str, shape: tuple[int, int]) -> KeptLinear:
        return checkpoint.kept(name, shape) or PlainLinear(checkpoint.read(name, shape, dtype))

    return stack_linears(_read_parts(architecture, layer, targets, read), dtype)


def _read_parts(
    architecture: Architecture, layer: int, targets: Sequence[str], read: Callable[[str, tuple[int, int]], _Part]
) -> list[_Part]:
    """The linears of `targets`, each module of the checkpoint `read` once by its name and shape."""
    modules: dict[str, _Part] = {}
    parts = []
    for target in targets:
        source, width = architecture.source(target, layer), architecture.target_shape(target)[0]
        if source.module not in modules:
            modules[source.module] = read(f"{source.module}.weight", (source.outputs, width))
        parts.append(modules[source.module].outputs(source.rows))
    return parts


def read_bias(
    checkpoint: Checkpoint, architecture: Architecture, layer: int, target: str, dtype: torch.dtype
) -> Tensor:
    """The bias [out] of `target` in `layer`, a linear or one of `NORMS`; zeros where it has none."""
    width = architecture.target_shape(target)[1]
    if target in NORMS:
        path, own = norm_paths(architecture)[target], norm_width(architecture, target)
        name = f"model.{path}.bias" if target == LAST_NORM else f"model.layers.{layer}.{path}.bias"
        if name in checkpoint:
            return checkpoint.read(name, (own,), dtype).repeat(width // own)
    elif target in architecture.spec.biased:
        source = architecture.source(target, layer)
        return checkpoint.read(f"{source.module}.bias", (source.outputs,), dtype)[source.rows]
    return torch.zeros(width, dtype=dtype)


@dataclass(frozen=True)
class _Reader:
    checkpoint: Checkpoint
    architecture: Architecture
    dtype: torch.dtype
    device: torch.device
    make_linear: MakeLinear
    keeps: bool
    stage: Stage

    def decoder(self) -> DecoderWeights:
        arch, first, end = self.architecture, self.stage.first, self.stage.end
        layers = _Streamed(lambda index: self._layer(first + index), end - first)
        norm = self._norm(f"model.{arch.names.last_norm}", (arch.hidden_size,))
        embedding = self._embedding()
        nothing = PlainLinear(torch.empty((0, arch.hidden_size), dtype=self.dtype, device=self.device))
        head = LateLinear(partial(self._head, embedding)) if self.stage.is_last else nothing
        return DecoderWeights(embedding, layers, norm, head, self._bias(0, HEAD))

    def _embedding(self) -> Tensor | Table:
        table = None
        if not self.stage.is_first:
            return torch.empty((0, self.architecture.hidden_size), dtype=self.dtype, device=self.device)
        if self.keeps and self.device.type == "cpu":
            shape = self.architecture.target_shape(EMBEDDING)
            table = self.checkpoint.table(f"model.{EMBEDDING}.weight", shape, self.dtype)
        return self._weight(0, EMBEDDING) if table is None else table

    def _head(self, embedding: Tensor | Table) -> Linear:
        """It has 8 bits at least where we choose: the most of the error of a 4-bit model would be its."""
        make_head = Int8Linear if self.make_linear in IN_GROUPS.values() else PlainLinear
        is_tied = self.architecture.tied_embeddings
        name, (vocab, width) = f"model.{EMBEDDING}" if is_tied else HEAD, self.architecture.target_shape(EMBEDDING)
        kept = self.checkpoint.kept(f"{name}.weight", (vocab, width)) if self.keeps else None
        if kept:
            return kept.on(self.device)
        if is_tied and isinstance(embedding, Tensor) and len(embedding):
            return make_head(embedding)
        return make_head(self._weight(0, EMBEDDING if is_tied else HEAD))

    def _layer(self, index: int) -> LayerWeights:
        spec, names = self.architecture.spec, self.architecture.names
        gate_up = GATE_UP if spec.is_gated else GATE_UP[1:]
        inner_norm = names.attention_norm if spec.is_parallel else names.mlp_norm
        is_both = spec.norm_place is NormPlace.BOTH
        return LayerWeights(
            attention_norm=self._of_hidden(index, names.attention_norm),
            qkv=self._linear(index, *QKV),
            o=self._linear(index, "o_proj"),
            mlp_norm=self._of_hidden(index, inner_norm),
            gate_up=self._linear(index, *gate_up),
            down=self._linear(index, "down_proj"),
            attention_out_norm=self._of_hidden(index, names.attention_out_norm) if is_both else None,
            mlp_out_norm=self._of_hidden(index, names.mlp_out_norm) if is_both else None,
            q_norm=self._head_norm(index, names.q_norm, self.architecture.num_heads),
            k_norm=self._head_norm(index, names.k_norm, self.architecture.num_kv_heads),
            qkv_bias=self._bias(index, *QKV),
            o_bias=self._bias(index, "o_proj"),
            gate_up_bias=self._bias(index, *gate_up),
            down_bias=self._bias(index, "down_proj"),
        )

    def _of_hidden(self, index: int, name: str) -> Tensor:
        return self._norm(f"model.layers.{index}.{name}", (self.architecture.hidden_size,))

    def _head_norm(self, index: int, name: str, heads: int) -> Tensor | None:
        kind, width = self.architecture.spec.head_norm, self.architecture.head_dim
        name = f"model.layers.{index}.{name}"
        if kind is HeadNorm.EACH_HEAD:
            return torch.stack([self._norm(f"{name}.norms.{head}", (width,)) for head in range(heads)], dim=-2)
        if kind is HeadNorm.BY_HEAD:
            return self._norm(name, (width,)).unsqueeze(-2)
        return self._norm(name, (heads * width,)) if kind is HeadNorm.WHOLE else None

    def _norm(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A norm's weight, in float32 where it multiplies in that; a LayerNorm's with its bias, or zeros."""
        spec = self.architecture.spec
        weight = self.checkpoint.read(f"{name}.weight", shape)
        if spec.norm is Norm.LAYER:
            has_bias = f"{name}.bias" in self.checkpoint
            bias = self.checkpoint.read(f"{name}.bias", shape) if has_bias else torch.zeros_like(weight)
            weight = torch.stack((weight, bias))
        if spec.norm is Norm.RMS_FLOAT32:
            return weight.to(self.device, torch.float32) + spec.norm_offset
        return weight.to(self.device, self.dtype)

    def _linear(self, layer: int, *targets: str) -> Linear:
        trim_heap()
        if self.keeps:
            return keep_linear(self.checkpoint, self.architecture, layer, targets, self.dtype).on(self.device)
        return self.make_linear(self._weight(layer, *targets))

    def _weight(self, layer: int, *targets: str) -> Tensor:
        return read_linear(self.checkpoint, self.architecture, layer, targets, self.dtype).to(self.device)

    def _bias(self, layer: int, *targets: str) -> Tensor | None:
        """The biases of `targets` one behind the other, zeros for one that has none; None if all have none."""
        if not self.architecture.spec.biased.intersection(targets):
            return None
        parts = [read_bias(self.checkpoint, self.architecture, layer, target, self.dtype) for target in targets]
        return torch.cat(parts).to(self.device)
