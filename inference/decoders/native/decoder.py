"""The decoder of `inference.decoders.torch.decoder` in one C++ call a pass, for CPUs of any kind.

Same weights, same batches, same interface; the torch decoder is the truth that tests compare it with. Every row's
sums have an order of their own, so no panels are needed: a row has the same bits whatever the batch, and the same
as a decode row and in a tile.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from inference.adapters.packed_lora import BLOCK
from inference.decoders.batch import Batch
from inference.decoders.coefficients import NONE, coefficient_sums, mean_coefficients
from inference.decoders.contract import StageDecoder, Stream
from inference.decoders.interrupt import Interrupted
from inference.decoders.kv_tensors import KVCache
from inference.decoders.native.bank import NativeBank
from inference.decoders.native.build import BuildError
from inference.decoders.native.library import (
    DEPTH,
    MAX_IN,
    UNITS,
    LayerView,
    LinearView,
    ModelView,
    NormView,
    PassView,
    best_unit,
    open_library,
    units_of,
)
from inference.decoders.native.packing import pack
from inference.decoders.native.token_rows import TokenRows
from inference.model.architecture import Architecture, Rope
from inference.model.checkpoint import Table
from inference.model.linear import Linear, PlainLinear
from inference.model.rotary import Rotary
from inference.model.spec import HeadNorm, Norm, NormPlace
from inference.model.weights import DecoderWeights, LayerWeights

MAX_GROUP: Final = 64
HEAD_STEP: Final = 16
COMPUTED: Final = frozenset(
    {
        *("norm", "norm_place", "head_norm", "biased", "activation", "is_gated", "is_parallel", "rotary_part"),
        *("is_interleaved", "turning", "windowed", "local_rope", "score_cap", "logit_cap", "embedding_multiplier"),
        *("attention_scale", "residual_multiplier", "logit_multiplier"),
    }
)
"""Fields of `DecoderSpec`. One that is not here yet is refused."""


def unsupported(architecture: Architecture, block_size: int) -> str | None:
    """Why a model of this shape cannot be computed here, or None."""
    arch = architecture
    if beyond := arch.spec.beyond_llama(COMPUTED):
        return f"the C++ decoder does not compute {', '.join(beyond)}"
    depths = {
        "hidden_size": arch.hidden_size,
        "intermediate_size": arch.intermediate_size,
        "the width of all heads": arch.num_heads * arch.head_dim,
    }
    for name, value in depths.items():
        if value % DEPTH:
            return f"{name} is {value} and no multiple of {DEPTH}"
    if arch.head_dim % HEAD_STEP:
        return f"head_dim is {arch.head_dim} and no multiple of {HEAD_STEP}"
    if max(depths.values()) > MAX_IN:
        return f"a linear has more than {MAX_IN} inputs"
    if block_size % BLOCK:
        return f"BLOCK_SIZE is {block_size} and no multiple of {BLOCK}"
    if arch.num_heads // arch.num_kv_heads > MAX_GROUP:
        return f"more than {MAX_GROUP} heads share a key head"
    return None


class NativeDecoder(StageDecoder):
    """The base model, or a stage of it, with the adapters of `bank`. Weights are packed anew, so give up `weights`.

    It computes on the `unit` of `UNITS` that is named, or on the fastest (`auto`), in the type of the weights:
    bfloat16 or float32. Raises `BuildError` where the processor has no such unit.
    """

    rows_are_uniform = True
    has_own_threads = True
    bank: NativeBank

    def __init__(
        self,
        architecture: Architecture,
        weights: DecoderWeights,
        bank: NativeBank,
        library: Path,
        block_size: int,
        num_threads: int,
        unit: str = "auto",
    ) -> None:
        super().__init__(bank)
        self.architecture = architecture
        self._block_size, self._dtype = block_size, weights.dtype
        self._library = open_library(library)
        self._has_biased_norms = architecture.spec.norm is Norm.LAYER
        self._rotaries: list[tuple[Rope, Rotary]] = []
        self._kept: list[Tensor | ctypes.Array[LayerView]] = []
        self._logits = torch.empty((0, _padded(architecture.vocab_size)), dtype=torch.float32)
        self._token_rows: TokenRows | None = None
        self._cache: tuple[KVCache, ctypes.Array[ctypes.c_void_p], ctypes.Array[ctypes.c_void_p]] | None = None
        self.view = self._model(weights)
        self.unit = best_unit(self._library) if unit == "auto" else unit
        self._handle = self._library.native_create(ctypes.byref(self.view), num_threads, UNITS.index(self.unit))
        if not self._handle:
            raise BuildError(f"this processor has no {self.unit}; it has {', '.join(units_of(self._library))}")

    def __del__(self) -> None:
        handle = self.__dict__.pop("_handle", None)
        if handle is not None:
            self._library.native_destroy(handle)

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KVCache, stream: Stream | None = None) -> Tensor:
        """As the contract has it. The cache keeps its memory, in an order of its own."""
        num_samples = len(batch.sample_rows)
        if len(self._logits) < num_samples:
            self._logits = torch.empty((num_samples, self._logits.shape[1]), dtype=torch.float32)
        states = torch.empty((len(batch.hidden_rows), self.architecture.hidden_size), dtype=torch.float32)
        sums = self._run(batch, cache, stream, states=states, logits=self._logits)
        self.hidden = states
        self.coefficients = NONE if sums is None else mean_coefficients(sums[batch.sample_rows])
        return self._logits[:num_samples, : self.architecture.vocab_size]

    @torch.inference_mode()
    def pass_on(self, batch: Batch, cache: KVCache, stream: Stream | None = None) -> Stream:
        rows = torch.empty((len(batch.token_ids), self.architecture.hidden_size), dtype=self._dtype)
        return Stream(rows, self._run(batch, cache, stream, left=rows))

    def _run(
        self,
        batch: Batch,
        cache: KVCache,
        stream: Stream | None,
        states: Tensor | None = None,
        logits: Tensor | None = None,
        left: Tensor | None = None,
    ) -> Tensor | None:
        """Compute the layers, and what is wanted behind them; the sums of coefficients, if a blend is in a slot."""
        if self._token_rows is not None:
            self._token_rows.fill(batch.token_ids)
        starts, tables = _tables(batch)
        keys, values = self._layers_of(cache)
        sums = self._sums(batch, stream)
        run = PassView(
            rows=len(batch.token_ids),
            num_samples=0 if logits is None else len(batch.sample_rows),
            num_hidden=0 if states is None else len(batch.hidden_rows),
            token_ids=batch.token_ids.data_ptr(),
            positions=batch.positions.data_ptr(),
            cache_slots=batch.cache_slots.data_ptr(),
            adapters=batch.adapter_slots.data_ptr(),
            table_starts=starts.data_ptr(),
            tables=tables.data_ptr(),
            sample_rows=batch.sample_rows.data_ptr(),
            hidden_rows=batch.hidden_rows.data_ptr(),
            adapter_views=ctypes.addressof(self.bank.views),
            keys=ctypes.addressof(keys),
            values=ctypes.addressof(values),
            logits=_address(logits),
            states=_address(states),
            coefficients=_address(sums),
            stream=None if stream is None else stream.rows.data_ptr(),
            left=_address(left),
            interrupts=self.interrupt.address if self.interrupt.is_allowed else None,
            acknowledged=self.interrupt.acknowledged,
        )
        if not self._library.native_forward(self._handle, ctypes.byref(run)):
            raise Interrupted
        return sums

    def _sums(self, batch: Batch, stream: Stream | None) -> Tensor | None:
        if stream is not None and stream.sums is not None:
            return stream.sums
        return coefficient_sums(len(batch.token_ids)) if self.bank.has_gates else None

    def argmax(self, logits: Tensor) -> tuple[list[int], list[bool]]:
        rows, width = logits.shape
        indices, are_finite = torch.empty(rows, dtype=torch.int64), torch.empty(rows, dtype=torch.bool)
        pointers = indices.data_ptr(), are_finite.data_ptr()
        self._library.native_argmax(self._handle, logits.data_ptr(), rows, logits.stride(0), width, *pointers)
        return indices.tolist(), are_finite.tolist()

    def _layers_of(self, cache: KVCache) -> tuple[ctypes.Array[ctypes.c_void_p], ctypes.Array[ctypes.c_void_p]]:
        if self._cache is None or self._cache[0] is not cache:
            assert cache.block_size == self._block_size, "the decoder was made for another block size"
            self._cache = cache, _pointers(cache.keys), _pointers(cache.values)
        return self._cache[1], self._cache[2]

    def _model(self, weights: DecoderWeights) -> ModelView:
        arch, spec = self.architecture, self.architecture.spec
        # The head is the largest of all, and passing copies of it are made while nothing else is there.
        head = self._linear(weights.head) if _has_outputs(weights.head) else LinearView()
        layers = (LayerView * arch.num_layers)(*(self._layer(*layer) for layer in enumerate(weights.layers)))
        self._kept.append(layers)
        return ModelView(
            hidden=arch.hidden_size,
            num_layers=arch.num_layers,
            num_heads=arch.num_heads,
            num_kv_heads=arch.num_kv_heads,
            head_dim=arch.head_dim,
            inner=arch.intermediate_size,
            vocab=_padded(arch.vocab_size),
            block_size=self._block_size,
            rotary_dim=arch.rotary_dim,
            is_wide=int(weights.dtype == torch.float32),
            is_gated=spec.is_gated,
            is_parallel=spec.is_parallel,
            is_interleaved=spec.is_interleaved,
            norms_whole=spec.head_norm is HeadNorm.WHOLE,
            activation=spec.activation,
            norm_eps=arch.norm_eps,
            attention_scale=spec.attention_scale or arch.head_dim**-0.5,
            score_cap=spec.score_cap,
            logit_cap=spec.logit_cap,
            # In the rows' type, as the model was trained.
            embedding_multiplier=float(torch.tensor(spec.embedding_multiplier, dtype=weights.dtype)),
            residual_multiplier=spec.residual_multiplier,
            logit_multiplier=spec.logit_multiplier,
            embedding=self._table(weights.embedding),
            norm=self._norm(weights.norm),
            head=head,
            head_bias=self._bias(weights.head_bias),
            layers=layers,
        )

    def _layer(self, index: int, layer: LayerWeights) -> LayerView:
        arch, is_behind = self.architecture, self.architecture.spec.norm_place is NormPlace.AFTER
        rotary = self._rotary(arch.rope_of(index))
        return LayerView(
            attention_norm=self._norm(None if is_behind else layer.attention_norm),
            attention_out_norm=self._norm(layer.attention_norm if is_behind else layer.attention_out_norm),
            mlp_norm=self._norm(None if is_behind else layer.mlp_norm),
            mlp_out_norm=self._norm(layer.mlp_norm if is_behind else layer.mlp_out_norm),
            q_norm=self._head_norm(layer.q_norm, arch.num_heads),
            k_norm=self._head_norm(layer.k_norm, arch.num_kv_heads),
            qkv=self._linear(layer.qkv),
            o=self._linear(layer.o),
            gate_up=self._linear(layer.gate_up),
            down=self._linear(layer.down),
            qkv_bias=self._bias(layer.qkv_bias),
            o_bias=self._bias(layer.o_bias),
            gate_up_bias=self._bias(layer.gate_up_bias),
            down_bias=self._bias(layer.down_bias),
            cos=rotary and self._keep(rotary.cos),
            sin=rotary and self._keep(rotary.sin),
            window=arch.window(index) or 0,
        )

    def _rotary(self, rope: Rope | None) -> Rotary | None:
        """The tables of `rope`, one for all layers that turn by it."""
        if rope is None:
            return None
        known = next((rotary for of, rotary in self._rotaries if of == rope), None)
        if known is None:
            known = Rotary(self.architecture, torch.float32, torch.device("cpu"), rope)
            self._rotaries.append((rope, known))
        return known

    def _norm(self, weight: Tensor | None) -> NormView:
        """A norm's weight in float32, and a LayerNorm's bias behind it."""
        if weight is None:
            return NormView()
        weight, *bias = weight.to(torch.float32) if self._has_biased_norms else [weight.to(torch.float32)]
        return NormView(self._keep(weight), self._keep(bias[0]) if bias else None)

    def _head_norm(self, weight: Tensor | None, heads: int) -> NormView:
        """The same for each of `heads`, one behind the other."""
        if weight is None:
            return NormView()
        width = heads * self.architecture.head_dim
        flat = weight.flatten(1) if self._has_biased_norms else weight.flatten()
        copies = width // flat.shape[-1]
        return self._norm(torch.cat([flat] * copies, dim=-1))

    def _bias(self, bias: Tensor | None) -> int | None:
        return None if bias is None else self._keep(functional.pad(bias, (0, -len(bias) % BLOCK)))

    def _table(self, embedding: Tensor | Table) -> int:
        if isinstance(embedding, Tensor):
            return self._keep(embedding)
        self._token_rows = TokenRows(embedding)
        return self._keep(self._token_rows.rows)

    def _linear(self, linear: Linear) -> LinearView:
        packed = pack(linear)
        parts = (packed.weight, packed.scales, packed.mins, packed.fifths, packed.codes)
        addresses = (None if part is None else self._keep(part) for part in parts)
        return LinearView(*addresses, packed.bits, packed.out, packed.into)

    def _keep(self, tensor: Tensor) -> int:
        """The address of a tensor's memory, which stays as long as the decoder."""
        kept = tensor.contiguous()
        self._kept.append(kept)
        return kept.data_ptr()


def _has_outputs(linear: Linear) -> bool:
    """Whether it is none that stands for the head of another stage."""
    return not isinstance(linear, PlainLinear) or len(linear.weight) > 0


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _padded(width: int) -> int:
    return -(-width // BLOCK) * BLOCK


def _pointers(layers: list[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(layers))(*(layer.data_ptr() for layer in layers))


def _tables(batch: Batch) -> tuple[Tensor, Tensor]:
    """Where each row's block table begins, int64 [rows], and all tables behind one another."""
    starts = [0] * len(batch.token_ids)
    tables: list[int] = []
    for segment in batch.decodes + batch.tiles:
        starts[segment.start : segment.start + segment.length] = [len(tables)] * segment.length
        tables += segment.block_table
    return torch.tensor(starts, dtype=torch.int64), torch.tensor(tables, dtype=torch.int64)
