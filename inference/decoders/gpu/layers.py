"""What layers do to their heads, worked out once: tables of angles, and weights and biases in the kernels' order."""

from __future__ import annotations

import torch
from torch import Tensor

from inference.decoders.gpu.kernels.paged_attention import Scores
from inference.decoders.gpu.kernels.rope import Heads
from inference.model.architecture import Architecture
from inference.model.rotary import Rotary
from inference.model.spec import HeadNorm
from inference.model.weights import DecoderWeights, LayerWeights


def scores_of_layers(architecture: Architecture) -> list[Scores]:
    """How each layer makes its scores."""
    spec = architecture.spec
    windows = map(architecture.window, range(architecture.num_layers))
    return [Scores(window, spec.attention_scale, spec.score_cap) for window in windows]


def heads_of_layers(architecture: Architecture, weights: DecoderWeights) -> list[Heads]:
    """What each layer does to its heads. Layers that turn alike share their tables."""
    ropes = [architecture.rope_of(layer) for layer in range(architecture.num_layers)]
    distinct = {id(rope): rope for rope in ropes if rope is not None and architecture.rotary_dim}
    tables: dict[int, tuple[Tensor | None, Tensor | None]] = {
        key: _tables(architecture, Rotary(architecture, weights.dtype, weights.device, rope))
        for key, rope in distinct.items()
    }
    turns = [tables.get(id(rope), (None, None)) for rope in ropes]
    return [_heads(architecture, layer, *turn) for layer, turn in zip(weights.layers, turns, strict=True)]


def _heads(architecture: Architecture, layer: LayerWeights, cos: Tensor | None, sin: Tensor | None) -> Heads:
    spec = architecture.spec
    return Heads(
        architecture.head_dim,
        layer.qkv_bias,
        _norm_weight(architecture, layer),
        spec.norm,
        architecture.norm_eps,
        spec.head_norm is HeadNorm.WHOLE,
        cos,
        sin,
        spec.is_interleaved,
    )


def _tables(architecture: Architecture, rotary: Rotary) -> tuple[Tensor, Tensor]:
    """Cosines and sines [positions, pairs]: the two numbers of a pair turn by the same angle."""
    step = 2 if architecture.spec.is_interleaved else 1
    columns = slice(0, architecture.rotary_dim if step == 2 else architecture.rotary_dim // 2, step)
    return rotary.cos[:, columns].contiguous(), rotary.sin[:, columns].contiguous()


def _norm_weight(architecture: Architecture, layer: LayerWeights) -> Tensor | None:
    """The weights of all heads that turn, one behind the other, also of those that share one."""
    if layer.q_norm is None or layer.k_norm is None:
        return None
    counts = (architecture.num_heads, architecture.num_kv_heads)
    is_whole = architecture.spec.head_norm is HeadNorm.WHOLE
    parts = []
    for weight, count in zip((layer.q_norm, layer.k_norm), counts, strict=True):
        by_head = weight.unflatten(-1, (count, -1)) if is_whole else weight
        parts.append(by_head.expand(*by_head.shape[:-2], count, architecture.head_dim))
    return torch.cat(parts, dim=-2).flatten(-2).contiguous()
