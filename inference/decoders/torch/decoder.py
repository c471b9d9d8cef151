"""The decoder of the Llama and Mistral family, over a batch of rows of many sequences and adapters.

It owns the arithmetic from token ids to logits. It knows nothing of requests, blocks accounting or digests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from inference.decoders.batch import Batch
from inference.decoders.contract import Decoder
from inference.decoders.kv_tensors import KVCache
from inference.decoders.torch.attention import AttentionPlan, attend, plan_attention
from inference.decoders.torch.lora import LoraBank, LoraPlan
from inference.decoders.torch.norm import rms_norm
from inference.decoders.torch.panels import DECODE_PANEL, Layout, by_panel, lay_out
from inference.model.architecture import HEAD, Architecture
from inference.model.rotary import Rotary, apply_rope
from inference.model.weights import DecoderWeights, LayerWeights


@dataclass(frozen=True)
class Pass:
    """What the layers of one forward pass share."""

    layout: Layout
    panels: list[slice]
    cos: Tensor
    sin: Tensor
    attention: AttentionPlan
    lora: LoraPlan
    cache: KVCache


class TorchDecoder(Decoder):
    """The base model with the adapters of `bank`. Tiles and decode rows are panels of different sizes, whose products
    may differ in a last bit."""

    bank: LoraBank

    def __init__(self, architecture: Architecture, weights: DecoderWeights, bank: LoraBank) -> None:
        super().__init__(bank)
        self.architecture, self.weights = architecture, weights
        self.rotary = Rotary(architecture, weights.dtype, weights.device)
        kv_width = architecture.num_kv_heads * architecture.head_dim
        self._qkv_widths = [architecture.num_heads * architecture.head_dim, kv_width, kv_width]

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        layout = lay_out(batch)
        cos, sin = self.rotary.at(batch.positions[layout.source])
        attention = plan_attention(batch, layout, self.architecture, cache.block_size)
        plan = self.bank.plan(batch, layout)
        run = Pass(layout, layout.panels, cos, sin, attention, plan, cache)
        token_ids = batch.token_ids[layout.source]
        hidden = self.weights.embedding[token_ids]
        plan.embed(token_ids, hidden)
        for index, layer in enumerate(self.weights.layers):
            hidden = hidden + self._attention(index, layer, hidden, run)
            hidden = hidden + self._mlp(index, layer, hidden, run)
        self.hidden = self._normed(hidden[layout.places[batch.hidden_rows]])[: len(batch.hidden_rows)].to(torch.float32)
        return self._logits(hidden[layout.places[batch.sample_rows]], plan)

    def _attention(self, index: int, layer: LayerWeights, hidden: Tensor, run: Pass) -> Tensor:
        rows = rms_norm(hidden, layer.attention_norm, self.architecture.norm_eps)
        projected = torch.split(by_panel(layer.qkv, rows, run.panels), self._qkv_widths, dim=-1)
        queries, keys, values = (
            self._heads(run.lora.add(f"{name}_proj", index, rows, part))
            for name, part in zip("qkv", projected, strict=True)
        )
        keys = apply_rope(keys, run.cos, run.sin)[run.layout.places]
        run.cache.write(index, run.attention.writes, keys, values[run.layout.places])
        attended = attend(apply_rope(queries, run.cos, run.sin), run.cache, index, run.attention)
        return run.lora.add("o_proj", index, attended, by_panel(layer.o, attended, run.panels))

    def _mlp(self, index: int, layer: LayerWeights, hidden: Tensor, run: Pass) -> Tensor:
        rows = rms_norm(hidden, layer.mlp_norm, self.architecture.norm_eps)
        gate, up = by_panel(layer.gate_up, rows, run.panels).chunk(2, dim=-1)
        gate = run.lora.add("gate_proj", index, rows, gate)
        up = run.lora.add("up_proj", index, rows, up)
        # By panel, because vectorised and scalar exponentials differ and the split depends on the size.
        inner = by_panel(functional.silu, gate, run.panels) * up
        return run.lora.add("down_proj", index, inner, by_panel(layer.down, inner, run.panels))

    def _heads(self, rows: Tensor) -> Tensor:
        return rows.reshape(len(rows), -1, self.architecture.head_dim)

    def _logits(self, hidden: Tensor, plan: LoraPlan) -> Tensor:
        """Logits of `hidden` [n, hidden], in panels as every other product."""
        num_rows, normed = len(hidden), self._normed(hidden)
        panels = [slice(at, at + DECODE_PANEL) for at in range(0, len(normed), DECODE_PANEL)]
        if not panels:
            return hidden.new_zeros((0, self.architecture.vocab_size), dtype=torch.float32)
        logits = by_panel(self.weights.head, normed, panels)
        plan.add(HEAD, 0, normed, logits)
        return logits[:num_rows].to(torch.float32)

    def _normed(self, hidden: Tensor) -> Tensor:
        """What the head sees of `hidden` [n, hidden], padded to whole panels."""
        padded = functional.pad(hidden, (0, 0, 0, -len(hidden) % DECODE_PANEL))
        return rms_norm(padded, self.weights.norm, self.architecture.norm_eps)
