"""Compile what the decoder launches for a model of Mistral-7B's shape, on a GPU that is not there.

Tensors have no memory and launching is replaced by compiling, with the specialisation that a launch would choose.
Prints each kernel, its bytes of shared memory and how many of its loads take a single number of 1 or 2 bytes. To be
run with TRITON_INTERPRET=0, as the test does.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from inference.decoders.gpu.bank import SlotBank
from inference.decoders.gpu.decoder import TritonDecoder
from inference.decoders.kv_tensors import KVCache
from inference.model.architecture import TARGETS
from tests.bench.mistral import MISTRAL_7B, make_adapter, make_weights
from tests.inference.passes import Chunk, Passes

TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.int32: "i32", torch.int64: "i64"}


def compile_instead(kernel: JITFunction, *given: Any, grid: Any, warmup: bool, **named: Any) -> None:
    """Stands for `JITFunction.run`."""
    values = {**dict(zip(kernel.arg_names, given, strict=False)), **named}
    signature, constants, hints = {}, {}, {}
    for index, param in enumerate(kernel.params):
        value = values[param.name]
        if isinstance(value, torch.Tensor):
            signature[param.name], hints[index,] = f"*{TYPES[value.dtype]}", [["tt.divisibility", 16]]
        elif param.is_constexpr or (value == 1 and not param.do_not_specialize):
            signature[param.name], constants[index,] = "constexpr", value
        else:
            signature[param.name] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, int) and value % 16 == 0 and not param.do_not_specialize:
                hints[index,] = [["tt.divisibility", 16]]
    options = {"num_warps": named.get("num_warps", 4)}
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    compiled = triton.compile(ASTSource(kernel, signature, constants, hints), target=target, options=options)
    narrow = re.findall(r"ld\.global\S*\.b(?:8|16)\b", compiled.asm["ptx"])
    print(kernel.fn.__name__, compiled.metadata.shared, len(narrow), flush=True)


def main() -> None:
    JITFunction.run = compile_instead
    architecture = replace(MISTRAL_7B, num_layers=1)
    weights = make_weights(architecture, "meta")
    for is_int8 in (False, True):
        cache = KVCache(architecture, 64, 32, torch.bfloat16, "meta")
        bank = SlotBank(32, 64, torch.device("meta"), is_int8)
        bank.put(0, make_adapter("all", architecture, 8, TARGETS, torch.bfloat16).weights)
        decoder = TritonDecoder(architecture, weights, bank)
        passes = Passes(decoder)
        # With adapters, and one context of more than a split.
        long, short, new = (passes.sequence(0, max_tokens) for max_tokens in (640, 64, 64))
        for chunks in (
            (Chunk(long, [1] * 600), Chunk(new, [1, 2, 3])),
            (Chunk(long, [1], False), Chunk(short, [1] * 40)),
        ):
            batch, _ = passes.batch(*chunks)
            decoder.forward(batch, cache)


if __name__ == "__main__":
    main()
