"""A decoder of Mistral-7B's shape with random weights, and random adapters for it: no download is needed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from inference.adapters.file import HostAdapter
from inference.adapters.weights import TargetWeights
from inference.model.architecture import TARGETS, Architecture, Rope
from inference.model.linear import Linear, PlainLinear
from inference.model.weights import DecoderWeights, LayerWeights

MISTRAL_7B = Architecture(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=14336,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    norm_eps=1e-5,
    max_position=32768,
    rope=Rope(),
    sliding_window=4096,
)
TINY = Architecture(
    vocab_size=260,
    hidden_size=64,
    intermediate_size=96,
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    norm_eps=1e-5,
    max_position=256,
    rope=Rope(),
)


def make_weights(
    architecture: Architecture,
    device: str,
    dtype: torch.dtype = torch.bfloat16,
    make_linear: Callable[[Tensor], Linear] = PlainLinear,
) -> DecoderWeights:
    """Random weights on `device`, which leave the size of a row about as it was."""

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device) / shape[-1] ** 0.5

    def linear(*targets: str) -> Linear:
        shapes = [architecture.target_shape(target) for target in targets]
        return make_linear(random(sum(width for _, width in shapes), shapes[0][0]))

    def layer() -> LayerWeights:
        norm = torch.ones(architecture.hidden_size, dtype=dtype, device=device)
        qkv, o = linear(*TARGETS[:3]), linear(TARGETS[3])
        return LayerWeights(norm, qkv, o, norm, linear(*TARGETS[4:6]), linear(TARGETS[6]))

    table = (architecture.vocab_size, architecture.hidden_size)
    layers = tuple(layer() for _ in range(architecture.num_layers))
    norm = torch.ones(architecture.hidden_size, dtype=dtype, device=device)
    return DecoderWeights(random(*table), layers, norm, PlainLinear(random(*table)))


def make_adapter(
    digest: str, architecture: Architecture, rank: int, targets: tuple[str, ...], dtype: torch.dtype
) -> HostAdapter:
    """A random adapter in host memory."""
    weights = {}
    for target in targets:
        width_in, width_out = architecture.target_shape(target)
        a = torch.randn((architecture.num_layers, width_in, rank), dtype=dtype) / width_in**0.5
        b = torch.randn((architecture.num_layers, rank, width_out), dtype=dtype) / rank**0.5
        weights[target] = TargetWeights(a, b)
    return HostAdapter(digest, weights, rank, sum(pair.num_bytes for pair in weights.values()))
