"""The decoder of `inference.decoders.torch` on a GPU: the same model, computed by kernels of our own.

What adapters ask of the rows of a product is computed beside the base's product, on a stream of its own.

Where `is_deterministic`, every product of the base has `PANEL` rows, so that a library chooses the same kernel
whatever the batch; our own kernels never look at it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from inference.config import EngineConfig
from inference.decoders.batch import Batch
from inference.decoders.contract import Decoder
from inference.decoders.gpu.bank import SlotBank
from inference.decoders.gpu.graphs import Graphs, run_eagerly
from inference.decoders.gpu.kernels.lora import add_embedding, empty_buffer, expand, shrink
from inference.decoders.gpu.kernels.norm import add_rms_norm
from inference.decoders.gpu.kernels.paged_attention import attend
from inference.decoders.gpu.kernels.rope import rope_and_store
from inference.decoders.gpu.kernels.slot_table import groups
from inference.decoders.gpu.kernels.swiglu import swiglu
from inference.decoders.gpu.side_stream import overlap
from inference.decoders.gpu.step import PANEL, Step, StepShape, decode_shape, round_up, shape_of
from inference.decoders.gpu.target_modules import TargetModules
from inference.decoders.kv_tensors import KVCache
from inference.model.architecture import Architecture
from inference.model.linear import Linear
from inference.model.rotary import Rotary
from inference.model.weights import DecoderWeights, LayerWeights
from inference.tile import TILE


def unsupported_on_gpu(architecture: Architecture) -> str | None:
    """Why a model of this family cannot be computed here, or None."""
    beyond = architecture.spec.beyond_llama()
    return f"Triton's decoder does not compute {', '.join(beyond)}" if beyond else None


def make_triton_decoder(config: EngineConfig, architecture: Architecture, weights: DecoderWeights) -> TritonDecoder:
    """The decoder that `config` asks for."""
    is_int8 = config.adapter_quantization == "int8"
    bank = SlotBank(config.adapter_slots, config.max_rank, weights.device, is_int8)
    return TritonDecoder(architecture, weights, bank, config.max_rows, config.deterministic)


class TritonDecoder(Decoder):
    """The base model, with the adapters of `bank`.

    Where there is CUDA, passes are graphs over the cache of the first one. Decode passes of up to `max_rows` rows with
    short contexts are captured before it, longer ones when they come, passes with tiles when their shape comes back.
    """

    bank: SlotBank

    def __init__(
        self,
        architecture: Architecture,
        weights: DecoderWeights,
        bank: SlotBank,
        max_rows: int = 1,
        is_deterministic: bool = False,
    ) -> None:
        super().__init__(bank)
        self.architecture, self.weights = architecture, weights
        assert isinstance(weights.embedding, Tensor), "a GPU has the whole table"
        self._embedding = weights.embedding
        self.max_rows, self.is_deterministic = max_rows, is_deterministic
        self._rotary = Rotary(architecture, weights.dtype, weights.device)
        self._groups = groups(architecture)
        self._graphs: Graphs | None = None
        self._side = torch.cuda.Stream(weights.device) if weights.device.type == "cuda" else None

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """As the contract has it. Tensors of `batch` may lie on the host, and had better."""
        slots = set(batch.adapter_slots.tolist())
        self.bank.wait(slots)
        shape, targets = shape_of(batch, cache.block_size, self.is_deterministic), self.bank.targets(slots)
        if shape.num_tiles and targets:
            # These take longer than kernels that find nothing to do, and have shapes enough without being told apart.
            targets = TargetModules.ALL
        shape = replace(shape, targets=targets)
        if len(batch.hidden_rows):
            return self._with_hidden(shape, batch, cache)
        if self.weights.device.type == "cuda":
            return self._captured(cache).run(shape, batch)
        return run_eagerly(self._sampled, shape, batch, cache)

    def _with_hidden(self, shape: StepShape, batch: Batch, cache: KVCache) -> Tensor:
        """A pass that keeps the hidden states of rows. It is rare, and worth no graph."""
        states, num_hidden = list[Tensor](), len(batch.hidden_rows)

        def compute(step: Step, cache: KVCache) -> Tensor:
            states.append(self._normed(step, cache))
            return self._head(step, states[0])

        wanted = replace(batch, sample_rows=torch.cat((batch.hidden_rows, batch.sample_rows)))
        shape = replace(shape, num_samples=round_up(len(wanted.sample_rows), TILE))
        logits = run_eagerly(compute, shape, wanted, cache)
        self.hidden = states[0][:num_hidden].to(torch.float32)
        return logits[num_hidden:]

    def _captured(self, cache: KVCache) -> Graphs:
        if self._graphs is None:
            self._graphs = Graphs(self._sampled, cache)
            counts = range(1, self.max_rows + 1)
            shapes = {decode_shape(rows, 1, cache.block_size, self.is_deterministic) for rows in counts}
            for shape in sorted(shapes, key=lambda shape: shape.decode_rows, reverse=True):
                for targets in reversed(TargetModules):
                    self._graphs.prepare(replace(shape, targets=targets))
        assert self._graphs.cache is cache, "graphs write into the cache that they were captured with"
        return self._graphs

    def _sampled(self, step: Step, cache: KVCache) -> Tensor:
        """Logits float32 [samples, vocab] of `step`."""
        return self._head(step, self._normed(step, cache))

    def _normed(self, step: Step, cache: KVCache) -> Tensor:
        """What the head sees of the sampled rows."""
        hidden, update = (rows.index_select(0, step.samples) for rows in self._layers(step, cache))
        return add_rms_norm(hidden, update, self.weights.norm, self.architecture.norm_eps)

    def _head(self, step: Step, normed: Tensor) -> Tensor:
        head = partial(self._base, self.weights.head, normed)
        if not step.shape.targets.includes("head"):
            return head().to(torch.float32)
        slots = step.slots.index_select(0, step.samples)
        return self._adapted(head, "head", 0, normed, slots, len(slots)).to(torch.float32)

    def _layers(self, step: Step, cache: KVCache) -> tuple[Tensor, Tensor]:
        """What the layers make of the rows of `step`: the stream before the last sum, and what is to be added."""
        hidden = self._embedding.index_select(0, step.token_ids)
        if step.shape.targets.includes("embedding"):
            add_embedding(hidden, step.token_ids, step.slots, self.bank.table, self._groups["embedding"])
        update: Tensor | None = None
        for index, layer in enumerate(self.weights.layers):
            rows = add_rms_norm(hidden, update, layer.attention_norm, self.architecture.norm_eps)
            update = self._attention(index, layer, rows, step, cache)
            rows = add_rms_norm(hidden, update, layer.mlp_norm, self.architecture.norm_eps)
            inner = swiglu(self._product("gate_up", layer.gate_up, index, rows, step))
            update = self._product("down", layer.down, index, inner, step)
        assert update is not None, "a model has layers"
        return hidden, update

    def _attention(self, index: int, layer: LayerWeights, rows: Tensor, step: Step, cache: KVCache) -> Tensor:
        qkv = self._product("qkv", layer.qkv, index, rows, step)
        keys, values = cache.keys[index], cache.values[index]
        rope_and_store(qkv, self._rotary.cos, self._rotary.sin, step.positions, step.cache_slots, keys, values)
        attended = qkv.new_empty((len(qkv), self.architecture.num_heads * self.architecture.head_dim))
        for segments in (step.decodes, step.tiles):
            attend(qkv, keys, values, segments, self.architecture.sliding_window, attended)
        return self._product("o", layer.o, index, attended, step)

    def _product(self, name: str, linear: Linear, index: int, rows: Tensor, step: Step) -> Tensor:
        base = partial(self._base, linear, rows)
        if not step.shape.targets.includes(name):
            return base()
        return self._adapted(base, name, index, rows, step.slots, step.shape.decode_rows)

    def _adapted(
        self, base: Callable[[], Tensor], name: str, index: int, rows: Tensor, slots: Tensor, num_single: int
    ) -> Tensor:
        """The base's product of `rows` and the adapters' updates of it: `num_single` rows come alone, then tiles."""
        bounds = ((0, num_single, 1), (num_single, len(rows), TILE))
        runs = [(slice(start, end), length) for start, end, length in bounds if start < end]
        table, group = self.bank.table, self._groups[name]
        buffers = [empty_buffer(rows[part], table, group) for part, _ in runs]

        def shrink_all() -> None:
            for (part, length), buffer in zip(runs, buffers, strict=True):
                shrink(buffer, rows[part], slots[part], table, group, index, length)

        with overlap(self._side, shrink_all):
            out = base()
        for (part, length), buffer in zip(runs, buffers, strict=True):
            expand(out[part], buffer, slots[part], table, group, index, length)
        return out

    def _base(self, linear: Linear, rows: Tensor) -> Tensor:
        if not self.is_deterministic or len(rows) == PANEL:
            return linear(rows)
        padding = -len(rows) % PANEL
        padded = functional.pad(rows, (0, 0, 0, padding)) if padding else rows
        return torch.cat([linear(panel) for panel in torch.split(padded, PANEL)])[: len(rows)]
