"""The decoder of `inference.decoders.torch` on a GPU: the same families, computed by kernels of our own.

Biases, norms, residual sums and multipliers are parts of the kernels that read their rows anyway, and no pass over
memory of their own. What adapters ask of the rows of a product is computed beside the base's product, on a stream of
its own.

Where `is_deterministic`, every product of the base has `PANEL` rows, so that the same kernel is chosen whatever the
batch, be it a library's or ours for weights in few bits; our other kernels never look at it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from inference.config import EngineConfig
from inference.decoders.batch import Batch
from inference.decoders.coefficients import NONE, mean_coefficients
from inference.decoders.contract import Decoder
from inference.decoders.gpu.bank import SlotBank
from inference.decoders.gpu.graphs import Graphs, Outputs, run_eagerly
from inference.decoders.gpu.kernels.activation import activate
from inference.decoders.gpu.kernels.gate import no_sums, weigh, weigh_stream
from inference.decoders.gpu.kernels.grouped import product
from inference.decoders.gpu.kernels.logits import finish_logits
from inference.decoders.gpu.kernels.lora import add_embedding, empty_buffer, expand, shrink
from inference.decoders.gpu.kernels.norm import Addends, SlotBiases, add_and_norm
from inference.decoders.gpu.kernels.paged_attention import attend
from inference.decoders.gpu.kernels.rope import rope_and_store
from inference.decoders.gpu.kernels.slot_table import INDEX, groups
from inference.decoders.gpu.layers import heads_of_layers, scores_of_layers
from inference.decoders.gpu.side_stream import overlap
from inference.decoders.gpu.step import PANEL, Step, StepShape, decode_shape, round_up, shape_of
from inference.decoders.gpu.target_modules import TargetModules
from inference.decoders.kv_tensors import KVCache
from inference.model.architecture import Architecture
from inference.model.linear import Linear
from inference.model.spec import LAST_NORM, NormPlace
from inference.model.weights import DecoderWeights, LayerWeights
from inference.tile import TILE

COMPUTED: Final = frozenset(
    {
        *("norm", "norm_place", "head_norm", "biased", "activation", "is_gated", "is_parallel", "rotary_part"),
        *("is_interleaved", "turning", "windowed", "local_rope", "score_cap", "logit_cap", "embedding_multiplier"),
        *("attention_scale", "residual_multiplier", "logit_multiplier"),
    }
)
"""Fields of `DecoderSpec`. One that is not here yet is refused."""


def unsupported_on_gpu(architecture: Architecture) -> str | None:
    """Why a model of this family cannot be computed here, or None."""
    beyond = architecture.spec.beyond_llama(COMPUTED)
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
        self._heads, self._scores = heads_of_layers(architecture, weights), scores_of_layers(architecture)
        # In the rows' type, as the model was trained.
        multiplier = torch.tensor(architecture.spec.embedding_multiplier, dtype=weights.dtype)
        self._embedding_multiplier = float(multiplier)
        self._groups = groups(architecture)
        self._coefficients: Tensor | None = None
        """Of the layer at hand, by gates that look at the stream; None in a pass without blends."""
        self._told: Tensor | None = None
        """Sums of coefficients of the pass at hand, as `no_sums` has them; None in a pass without blends."""
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
            targets = max(targets, TargetModules.ALL)
        shape = replace(shape, targets=targets)
        if len(batch.hidden_rows):
            return self._with_hidden(shape, batch, cache)
        if self.weights.device.type == "cuda":
            return self._read(self._captured(cache).run(shape, batch))
        return self._read(run_eagerly(self._sampled, shape, batch, cache))

    def _read(self, outputs: Outputs) -> Tensor:
        """The logits; what gates made of the rows is kept."""
        logits, *told = outputs
        self.coefficients = told[0] if told else NONE
        return logits

    def _with_hidden(self, shape: StepShape, batch: Batch, cache: KVCache) -> Tensor:
        """A pass that keeps the hidden states of rows. It is rare, and worth no graph."""
        states, num_hidden = list[Tensor](), len(batch.hidden_rows)

        def compute(step: Step, cache: KVCache) -> Outputs:
            states.append(self._normed(step, cache))
            return self._with_coefficients(step, self._head(step, states[0]))

        wanted = replace(batch, sample_rows=torch.cat((batch.hidden_rows, batch.sample_rows)))
        shape = replace(shape, num_samples=round_up(len(wanted.sample_rows), TILE))
        outputs = run_eagerly(compute, shape, wanted, cache)
        self.hidden = states[0][:num_hidden].to(torch.float32)
        return self._read(tuple(output[num_hidden:] for output in outputs))

    def _captured(self, cache: KVCache) -> Graphs:
        if self._graphs is None:
            self._graphs = Graphs(self._sampled, cache)
            counts = range(1, self.max_rows + 1)
            shapes = {decode_shape(rows, 1, cache.block_size, self.is_deterministic) for rows in counts}
            for shape in sorted(shapes, key=lambda shape: shape.decode_rows, reverse=True):
                for targets in (TargetModules.ALL, TargetModules.QKV, TargetModules.NONE):
                    self._graphs.prepare(replace(shape, targets=targets))
        assert self._graphs.cache is cache, "graphs write into the cache that they were captured with"
        return self._graphs

    def _sampled(self, step: Step, cache: KVCache) -> Outputs:
        """Logits float32 [samples, vocab] of `step`, and where a blend may be in it their `coefficients`."""
        return self._with_coefficients(step, self._head(step, self._normed(step, cache)))

    def _with_coefficients(self, step: Step, logits: Tensor) -> Outputs:
        if self._told is None:
            return (logits,)
        return logits, mean_coefficients(self._told.index_select(0, step.samples).sum(1))

    def _normed(self, step: Step, cache: KVCache) -> Tensor:
        """What the head sees of the sampled rows."""
        hidden, addends = self._layers(step, cache)
        biases = self._slot_biases(LAST_NORM, 0, step)
        rows, addends = hidden.index_select(0, step.samples), addends.at(step.samples)
        return self._norm(rows, addends, self.weights.norm, biases and biases.at(step.samples))

    def _norm(
        self,
        hidden: Tensor,
        addends: Addends | None,
        weight: Tensor | None,
        slot_biases: SlotBiases | None,
        stream: float = 1.0,
    ) -> Tensor:
        spec, eps = self.architecture.spec, self.architecture.norm_eps
        return add_and_norm(hidden, addends, weight, spec.norm, eps, stream, slot_biases)

    def _slot_biases(self, norm: str, index: int, step: Step) -> SlotBiases | None:
        """What adapters add to a norm of layer `index`, if those of the pass may add anything."""
        if not step.shape.targets.includes("norms"):
            return None
        return SlotBiases(step.slots, self.bank.table.affine, INDEX[norm], index)

    def _head(self, step: Step, normed: Tensor) -> Tensor:
        spec, logits = self.architecture.spec, partial(self._base, self.weights.head, normed)
        if step.shape.targets.includes("head"):
            slots = step.slots.index_select(0, step.samples)
            logits = partial(self._adapted, logits, "head", 0, normed, slots, len(slots))
        return finish_logits(logits(), self.weights.head_bias, spec.logit_multiplier, spec.logit_cap)

    def _layers(self, step: Step, cache: KVCache) -> tuple[Tensor, Addends]:
        """What the layers make of the rows of `step`: the stream before the last sum, and what is to be added."""
        hidden = self._embedding.index_select(0, step.token_ids)
        if step.shape.targets.includes("embedding"):
            add_embedding(hidden, step.token_ids, step.slots, self.bank.table, self._groups["embedding"])
        addends: Addends | None = None
        has_gates = step.shape.targets.includes("gates")
        self._told = no_sums(len(hidden), hidden.device) if has_gates else None
        for index, layer in enumerate(self.weights.layers):
            addends = self._layer(index, layer, hidden, addends, step, cache)
        assert addends is not None, "a model has layers"
        return hidden, addends

    def _layer(
        self, index: int, layer: LayerWeights, hidden: Tensor, before: Addends | None, step: Step, cache: KVCache
    ) -> Addends:
        """What a layer adds to `hidden`, to which what came `before` is still to be added."""
        spec = self.architecture.spec
        is_behind = spec.norm_place is NormPlace.AFTER
        stream = 1.0 if index else self._embedding_multiplier
        biases = partial(self._slot_biases, index=index, step=step)
        norm = None if is_behind else layer.attention_norm
        rows = self._norm(hidden, before, norm, biases("attention_norm"), stream)
        # The sum is in the stream now.
        self._coefficients = None
        if self._told is not None:
            self._coefficients = weigh_stream(hidden, step.slots, self.bank.table, index)
        attended = self._attention(index, layer, rows, step, cache)
        behind = layer.attention_norm if is_behind else layer.attention_out_norm
        own = biases("attention_out_norm")
        if spec.is_parallel:
            inner = self._mlp(index, layer, rows, step)
            return Addends((attended, inner), (layer.o_bias, layer.down_bias), behind, slot_biases=own)
        between = Addends((attended,), (layer.o_bias,), behind, spec.residual_multiplier, own)
        rows = self._norm(hidden, between, None if is_behind else layer.mlp_norm, biases("mlp_norm"))
        behind = layer.mlp_norm if is_behind else layer.mlp_out_norm
        inner = self._mlp(index, layer, rows, step)
        return Addends((inner,), (layer.down_bias,), behind, spec.residual_multiplier, biases("mlp_out_norm"))

    def _attention(self, index: int, layer: LayerWeights, rows: Tensor, step: Step, cache: KVCache) -> Tensor:
        qkv = self._product("qkv", layer.qkv, index, rows, step)
        keys, values = cache.keys[index], cache.values[index]
        biases = self._slot_biases("q_norm", index, step)
        rope_and_store(qkv, self._heads[index], step.positions, step.cache_slots, keys, values, biases)
        attended = qkv.new_empty((len(qkv), self.architecture.num_heads * self.architecture.head_dim))
        for segments in (step.decodes, step.tiles):
            attend(qkv, keys, values, segments, self._scores[index], attended)
        return self._product("o", layer.o, index, attended, step)

    def _mlp(self, index: int, layer: LayerWeights, rows: Tensor, step: Step) -> Tensor:
        spec, inner = self.architecture.spec, self._product("gate_up", layer.gate_up, index, rows, step)
        bent = activate(inner, layer.gate_up_bias, spec.activation, spec.is_gated)
        return self._product("down", layer.down, index, bent, step)

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

        weights, told = (None, None) if name in ("embedding", "head") else (self._coefficients, self._told)

        def shrink_all() -> None:
            for (part, length), buffer in zip(runs, buffers, strict=True):
                shrink(buffer, rows[part], slots[part], table, group, index, length)
                if weights is not None and told is not None:
                    weigh(buffer, rows[part], slots[part], table, group, index, weights[part], told[part])

        with overlap(self._side, shrink_all):
            out = base()
        for (part, length), buffer in zip(runs, buffers, strict=True):
            expand(out[part], buffer, slots[part], table, group, index, length)
        return out

    def _base(self, linear: Linear, rows: Tensor) -> Tensor:
        if not self.is_deterministic or len(rows) == PANEL:
            return product(linear, rows)
        padding = -len(rows) % PANEL
        padded = functional.pad(rows, (0, 0, 0, padding)) if padding else rows
        return torch.cat([product(linear, panel) for panel in torch.split(padded, PANEL)])[: len(rows)]
