"""Compile what the decoder launches for models of published shapes, on a GPU that is not there.

Tensors have no memory and launching is replaced by compiling, with the specialisation that a launch would choose.
Prints for each kernel the model, its name, its bytes of shared memory, how many of its loads take a single number of 1
or 2 bytes, and how many bytes a thread keeps in memory for want of registers. To be run with TRITON_INTERPRET=0, as the
test does.
"""

from __future__ import annotations

import re
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from inference.adapters.blend import blend
from inference.adapters.identity import blended_digest
from inference.adapters.weights import AdapterWeights
from inference.decoders.gpu.bank import SlotBank
from inference.decoders.gpu.decoder import TritonDecoder
from inference.decoders.gpu.kernels.grouped import grouped_product
from inference.decoders.gpu.kernels.norm import Addends, SlotBiases, add_and_norm
from inference.decoders.gpu.kernels.rope import rope_and_store
from inference.decoders.gpu.layers import heads_of_layers
from inference.decoders.kv_tensors import KVCache
from inference.model.architecture import TARGETS, Architecture, parse_architecture
from inference.model.linear import Int4Linear, Int8Linear
from inference.model.spec import Norm
from inference.wire.protocol import GateRef
from tests.bench.mistral import MISTRAL_7B, make_adapter, make_weights
from tests.inference.decoders.gpu.published import PUBLISHED, meta_linear, meta_weights
from tests.inference.passes import Chunk, Passes

MODEL = "Mistral-7B"
COMPILED: set[Any] = set()
"""What was compiled already, as a launch would know."""
TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int8: "i8",
    torch.uint8: "u8",
}


def compile_instead(kernel: JITFunction, *given: Any, grid: Any, warmup: bool, **named: Any) -> None:
    """Stands for `JITFunction.run`."""
    values = {**dict(zip(kernel.arg_names, given, strict=False)), **named}
    signature, constants, hints = {}, {}, {}
    for index, param in enumerate(kernel.params):
        value = values[param.name]
        if isinstance(value, torch.Tensor):
            signature[param.name], hints[index,] = f"*{TYPES[value.dtype]}", [["tt.divisibility", 16]]
        elif value is None or param.is_constexpr or (value == 1 and not param.do_not_specialize):
            signature[param.name], constants[index,] = "constexpr", value
        else:
            signature[param.name] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, int) and value % 16 == 0 and not param.do_not_specialize:
                hints[index,] = [["tt.divisibility", 16]]
    options = {name: named[name] for name in ("num_warps", "num_stages") if name in named}
    known = (kernel.fn, *(tuple(part.items()) for part in (signature, constants, options)), str(hints))
    if known in COMPILED:
        return
    COMPILED.add(known)
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    with redirect_stdout(StringIO()) as log:
        compiled = triton.compile(ASTSource(kernel, signature, constants, hints), target=target, options=options)
    narrow = re.findall(r"ld\.global\S*\.b(?:8|16)\b", compiled.asm["ptx"])
    spilled = sum(map(int, re.findall(r"(\d+) bytes spill", log.getvalue())))
    print(MODEL, kernel.fn.__name__, compiled.metadata.shared, len(narrow), spilled, flush=True)


def compile_passes(decoder: TritonDecoder, slot: int) -> None:
    """A prompt of more than a split, and one of its tokens beside another prompt; both with short ones."""
    cache, passes = KVCache(decoder.architecture, 64, 32, torch.bfloat16, "meta"), Passes(decoder)
    long, short, new = (passes.sequence(slot, max_tokens) for max_tokens in (640, 64, 64))
    for chunks in (
        (Chunk(long, [1] * 600), Chunk(new, [1, 2, 3])),
        (Chunk(long, [1], False), Chunk(short, [1] * 40)),
    ):
        batch, _ = passes.batch(*chunks)
        decoder.forward(batch, cache)


def compile_slot_biases(decoder: TritonDecoder) -> None:
    """The norms of rows and of heads, with adapters that have biases of them."""
    architecture, layer, rows = decoder.architecture, decoder.weights.layers[0], 16
    slots = torch.empty(rows, dtype=torch.int32, device="meta")
    biases = SlotBiases(slots, decoder.bank.table.affine, 0, 0)
    hidden = torch.empty(rows, architecture.hidden_size, dtype=torch.bfloat16, device="meta")
    addends = Addends((hidden,), (None,), layer.attention_norm, slot_biases=biases)
    add_and_norm(hidden, addends, layer.attention_norm, architecture.spec.norm, 1e-5, slot_biases=biases)
    (how, *_), cache = (
        heads_of_layers(architecture, decoder.weights),
        KVCache(architecture, 1, 32, hidden.dtype, "meta"),
    )
    width = (architecture.num_heads + 2 * architecture.num_kv_heads) * architecture.head_dim
    qkv = torch.empty(rows, width, dtype=hidden.dtype, device="meta")
    rope_and_store(qkv, how, slots, slots, cache.keys[0], cache.values[0], biases)


def make_blend(architecture: Architecture) -> AdapterWeights:
    """Two random adapters in a blend by Arrow."""
    parts = [make_adapter(name, architecture, 8, TARGETS, torch.bfloat16) for name in ("a", "b")]
    digest = blended_digest(("a", "b"), "arrow", 0, 1.0, "")
    return blend(digest, [(part, 1.0) for part in parts], GateRef("arrow"), None, 64).weights


def main() -> None:
    global MODEL
    JITFunction.run, triton.knobs.nvidia.dump_ptxas_log = compile_instead, True
    meta = torch.device("meta")
    mistral = replace(MISTRAL_7B, num_layers=1)
    for is_int8 in (False, True):
        bank = SlotBank(32, 64, meta, is_int8)
        bank.put(0, make_adapter("all", mistral, 8, TARGETS, torch.bfloat16).weights)
        bank.put(1, make_blend(mistral))
        for slot in (0, 1):
            compile_passes(TritonDecoder(mistral, make_weights(mistral, "meta"), bank), slot)
    for kind, counts in ((Int8Linear, (1, 128)), (Int4Linear, (1, 16, 32, 64, 128))):
        linear = meta_linear(kind, mistral)
        for num_rows in counts:
            grouped_product(linear, torch.empty(num_rows, mistral.hidden_size, dtype=torch.bfloat16, device=meta))
    for name, config in PUBLISHED.items():
        MODEL = name
        architecture = parse_architecture(config)
        decoder = TritonDecoder(architecture, meta_weights(architecture), SlotBank(1, 8, meta))
        compile_passes(decoder, slot=-1)
        if architecture.spec.norm is Norm.LAYER and architecture.spec.head_norm:
            compile_slot_biases(decoder)


if __name__ == "__main__":
    main()
