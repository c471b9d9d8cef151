"""The decoder of every family in `inference.model.families`, over a batch of rows of many sequences and adapters.

It owns the arithmetic from token ids to logits. It knows nothing of requests, blocks accounting or digests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from inference.decoders.batch import Batch
from inference.decoders.coefficients import NONE, mean_coefficients
from inference.decoders.contract import StageDecoder, Stream
from inference.decoders.kv_tensors import KVCache
from inference.decoders.torch.attention import AttentionPlan, Scores, attend, plan_attention
from inference.decoders.torch.lora import LoraBank, LoraPlan
from inference.decoders.torch.norm import Shift, norm
from inference.decoders.torch.panels import DECODE_PANEL, Layout, by_panel, lay_out
from inference.model.architecture import HEAD, Architecture
from inference.model.linear import Linear
from inference.model.rotary import Rotary, apply_rope
from inference.model.spec import GATE_UP, LAST_NORM, NORMS, Activation, HeadNorm, NormPlace
from inference.model.weights import DecoderWeights, LayerWeights


@dataclass(frozen=True)
class Pass:
    """What the layers of one forward pass share."""

    layout: Layout
    panels: list[slice]
    turns: list[tuple[Tensor, Tensor] | None]
    """Cosines and sines of the rows for each layer that turns."""
    attention: AttentionPlan
    lora: LoraPlan
    cache: KVCache


ACTIVATIONS: Final[dict[Activation, Callable[[Tensor], Tensor]]] = {
    Activation.SILU: functional.silu,
    Activation.GELU_TANH: partial(functional.gelu, approximate="tanh"),
    Activation.GELU: functional.gelu,
}


class TorchDecoder(StageDecoder):
    """The base model, or a stage of it, with the adapters of `bank`. Tiles and decode rows are panels of different
    sizes, whose products may differ in a last bit."""

    bank: LoraBank

    def __init__(self, architecture: Architecture, weights: DecoderWeights, bank: LoraBank) -> None:
        super().__init__(bank)
        self.architecture, self.weights = architecture, weights
        self._ropes = [architecture.rope_of(layer) for layer in range(architecture.num_layers)]
        distinct = {id(rope): rope for rope in self._ropes if rope is not None}
        self._rotaries = {
            key: Rotary(architecture, weights.dtype, weights.device, rope) for key, rope in distinct.items()
        }
        self._scores = Scores(architecture.spec.attention_scale, architecture.spec.score_cap)
        kv_width = architecture.num_kv_heads * architecture.head_dim
        self._qkv_widths = [architecture.num_heads * architecture.head_dim, kv_width, kv_width]

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KVCache, stream: Stream | None = None) -> Tensor:
        batch = batch.to(self.weights.device)
        run = self._begin(batch, cache, stream)
        hidden, plan, layout = self._layers(batch, run, stream), run.lora, run.layout
        states = self._normed(hidden[layout.places[batch.hidden_rows]], plan.shift_hidden)
        self.hidden = states[: len(batch.hidden_rows)].to(torch.float32)
        told = plan.told
        self.coefficients = NONE if told is None else mean_coefficients(told[layout.places[batch.sample_rows]])
        return self._logits(hidden[layout.places[batch.sample_rows]], plan)

    @torch.inference_mode()
    def pass_on(self, batch: Batch, cache: KVCache, stream: Stream | None = None) -> Stream:
        batch = batch.to(self.weights.device)
        run = self._begin(batch, cache, stream)
        hidden, told, places = self._layers(batch, run, stream), run.lora.told, run.layout.places
        return Stream(hidden[places], None if told is None else told[places])

    def _begin(self, batch: Batch, cache: KVCache, stream: Stream | None) -> Pass:
        layout = lay_out(batch)
        attention = plan_attention(batch, layout, self.architecture, cache.block_size)
        plan = self.bank.plan(batch, layout)
        if stream is not None and stream.sums is not None:
            plan.told = stream.sums[layout.source]
        return Pass(layout, layout.panels, self._turns(batch.positions[layout.source]), attention, plan, cache)

    def _layers(self, batch: Batch, run: Pass, stream: Stream | None) -> Tensor:
        """The residual stream [padded rows, hidden] behind the last layer here."""
        hidden = self._embedded(batch, run) if stream is None else stream.rows[run.layout.source]
        for index, layer in enumerate(self.weights.layers):
            hidden = self._block(index, layer, hidden, run)
        return hidden

    def _embedded(self, batch: Batch, run: Pass) -> Tensor:
        token_ids = batch.token_ids[run.layout.source]
        hidden = self.weights.embedding[token_ids]
        run.lora.embed(token_ids, hidden)
        if self.architecture.spec.embedding_multiplier != 1:
            hidden = hidden * torch.tensor(self.architecture.spec.embedding_multiplier, dtype=hidden.dtype)
        return hidden

    def _turns(self, positions: Tensor) -> list[tuple[Tensor, Tensor] | None]:
        at = {key: rotary.at(positions) for key, rotary in self._rotaries.items()}
        return [None if rope is None else at[id(rope)] for rope in self._ropes]

    def _block(self, index: int, layer: LayerWeights, hidden: Tensor, run: Pass) -> Tensor:
        """What layer `index` makes of `hidden` [padded rows, hidden]."""
        run.lora.residual = hidden
        shifts = {name: partial(run.lora.shift, name, index) for name in NORMS}
        rows = self._before(hidden, layer.attention_norm, shifts["attention_norm"])
        attended = self._attention(index, layer, rows, run)
        attended = self._after(attended, layer.attention_norm, layer.attention_out_norm, shifts["attention_out_norm"])
        if self.architecture.spec.is_parallel:
            return hidden + attended + self._mlp(index, layer, rows, run)
        hidden = hidden + self._multiplied(attended)
        rows = self._before(hidden, layer.mlp_norm, shifts["mlp_norm"])
        inner = self._mlp(index, layer, rows, run)
        inner = self._after(inner, layer.mlp_norm, layer.mlp_out_norm, shifts["mlp_out_norm"])
        return hidden + self._multiplied(inner)

    def _multiplied(self, rows: Tensor) -> Tensor:
        """What is added to the residual stream."""
        multiplier = self.architecture.spec.residual_multiplier
        return rows if multiplier == 1 else rows * multiplier

    def _before(self, hidden: Tensor, weight: Tensor, shift: Shift) -> Tensor:
        return hidden if self.architecture.spec.norm_place is NormPlace.AFTER else self._norm(hidden, weight, shift)

    def _after(self, rows: Tensor, weight: Tensor, out_weight: Tensor | None, shift: Shift) -> Tensor:
        if self.architecture.spec.norm_place is NormPlace.AFTER:
            return self._norm(rows, weight, shift)
        return rows if out_weight is None else self._norm(rows, out_weight, shift)

    def _norm(self, rows: Tensor, weight: Tensor, shift: Shift) -> Tensor:
        return norm(self.architecture.spec.norm, rows, weight, self.architecture.norm_eps, shift)

    def _attention(self, index: int, layer: LayerWeights, rows: Tensor, run: Pass) -> Tensor:
        projected = torch.split(by_panel(layer.qkv, rows, run.panels), self._qkv_widths, dim=-1)
        biases = [None] * 3 if layer.qkv_bias is None else torch.split(layer.qkv_bias, self._qkv_widths)
        queries, keys, values = (
            _plus(run.lora.add(f"{name}_proj", index, rows, part), bias)
            for name, part, bias in zip("qkv", projected, biases, strict=True)
        )
        queries = self._turned(index, queries, layer.q_norm, "q_norm", run)
        keys = self._turned(index, keys, layer.k_norm, "k_norm", run)
        places = run.layout.places
        run.cache.write(index, run.attention.writes, keys[places], self._heads(values)[places])
        attended = attend(queries, run.cache, index, run.attention.calls[self.architecture.window(index)], self._scores)
        return self._linear("o_proj", index, layer.o, layer.o_bias, attended, run)

    def _turned(self, index: int, rows: Tensor, weight: Tensor | None, name: str, run: Pass) -> Tensor:
        """Queries or keys [padded rows, heads * head_dim] as heads, normed by `name` and turned by their position."""
        is_whole = self.architecture.spec.head_norm is HeadNorm.WHOLE
        heads = rows if is_whole else self._heads(rows)
        heads = heads if weight is None else self._norm(heads, weight, partial(run.lora.shift, name, index))
        heads = self._heads(heads) if is_whole else heads
        turns = run.turns[index]
        return heads if turns is None else apply_rope(heads, *turns, self.architecture.spec.is_interleaved)

    def _mlp(self, index: int, layer: LayerWeights, rows: Tensor, run: Pass) -> Tensor:
        bent = ACTIVATIONS[self.architecture.spec.activation]
        parts = by_panel(layer.gate_up, rows, run.panels).split(self.architecture.intermediate_size, dim=-1)
        targets = [target for target in self.architecture.targets if target in GATE_UP]
        biases = [None] * 2 if layer.gate_up_bias is None else layer.gate_up_bias.chunk(len(parts))
        gate, *up = (
            _plus(run.lora.add(target, index, rows, part), bias)
            for target, part, bias in zip(targets, parts, biases, strict=False)
        )
        # By panel, because vectorised and scalar exponentials differ and the split depends on the size.
        inner = by_panel(bent, gate, run.panels)
        inner = inner * up[0] if up else inner
        return self._linear("down_proj", index, layer.down, layer.down_bias, inner, run)

    def _linear(self, target: str, index: int, linear: Linear, bias: Tensor | None, rows: Tensor, run: Pass) -> Tensor:
        return _plus(run.lora.add(target, index, rows, by_panel(linear, rows, run.panels)), bias)

    def _heads(self, rows: Tensor) -> Tensor:
        return rows.reshape(len(rows), -1, self.architecture.head_dim)

    def _logits(self, hidden: Tensor, plan: LoraPlan) -> Tensor:
        """Logits of `hidden` [n, hidden], in panels as every other product."""
        num_rows, normed = len(hidden), self._normed(hidden, partial(plan.shift, LAST_NORM, 0))
        panels = [slice(at, at + DECODE_PANEL) for at in range(0, len(normed), DECODE_PANEL)]
        if not panels:
            return hidden.new_zeros((0, self.architecture.vocab_size), dtype=torch.float32)
        logits = by_panel(self.weights.head, normed, panels)
        logits = _plus(plan.add(HEAD, 0, normed, logits), self.weights.head_bias)
        return self._bent(logits, panels)[:num_rows]

    def _bent(self, logits: Tensor, panels: list[slice]) -> Tensor:
        """`logits` in float32, multiplied and capped as the model has it."""
        cap, logits = self.architecture.spec.logit_cap, logits.to(torch.float32)
        if self.architecture.spec.logit_multiplier != 1:
            logits = logits * self.architecture.spec.logit_multiplier
        return by_panel(lambda panel: cap * torch.tanh(panel / cap), logits, panels) if cap else logits

    def _normed(self, hidden: Tensor, shift: Shift) -> Tensor:
        """What the head sees of `hidden` [n, hidden], padded to whole panels."""
        padded = functional.pad(hidden, (0, 0, 0, -len(hidden) % DECODE_PANEL))
        return self._norm(padded, self.weights.norm, shift)


def _plus(rows: Tensor, bias: Tensor | None) -> Tensor:
    return rows if bias is None else rows + bias
