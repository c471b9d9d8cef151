"""An engine over random weights and random adapters, as a worker would put it together on a GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from inference.adapters.file import HostAdapter
from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterCache
from inference.config import EngineConfig
from inference.decoders.gpu.decoder import make_triton_decoder
from inference.decoders.kv_tensors import KVCache
from inference.engine.engine import Engine
from inference.engine.loading import AdapterLoader
from inference.engine.machine import Machine
from inference.engine.model_runner import ModelRunner, canary_blocks
from inference.engine.self_check import self_check
from inference.model.architecture import TARGETS, Architecture
from inference.model.tokenizer import Tokenizer
from inference.model.weights import DecoderWeights
from inference.scheduling.kv_cache import BlockPool
from inference.scheduling.prefix_cache import PrefixCache
from inference.scheduling.scheduler import Scheduler
from inference.structured.guide import Guides
from inference.tile import TILE
from tests.bench.mistral import make_adapter
from tests.inference.engines import make_tokenizer

SMALL, LARGE = (8, ("q_proj", "v_proj")), (16, TARGETS)
"""Rank and targets of the two kinds of adapter: as those of the paper, and one that changes every linear."""


@dataclass(frozen=True)
class Adapters:
    """As many adapters as anybody wants, by names of our own; all of a kind share their host memory."""

    architecture: Architecture
    dtype: torch.dtype

    def digests(self, count: int, only_small: bool = False) -> list[str]:
        """Names of `count` adapters, small and large by turns unless `only_small`."""
        kinds = ["small" if only_small or number % 2 == 0 else "large" for number in range(count)]
        return [f"{kind}-{hashlib.sha256(str(number).encode()).hexdigest()[:8]}" for number, kind in enumerate(kinds)]

    def loader(self) -> Callable[[str], HostAdapter]:
        @cache
        def first(kind: str) -> HostAdapter:
            rank, targets = {"small": SMALL, "large": LARGE}[kind]
            return make_adapter(kind, self.architecture, rank, targets, self.dtype)

        return lambda digest: replace(first(digest.partition("-")[0]), digest=digest)


def make_engine(
    config: EngineConfig, architecture: Architecture, weights: DecoderWeights, load: Callable[[str], HostAdapter]
) -> Engine:
    """The engine that `config` describes, over `weights`; its texts are bytes."""
    decoder = make_triton_decoder(config, architecture, weights)
    pool = BlockPool(config.kv_blocks, config.block_size)
    num_blocks = pool.num_blocks + canary_blocks(config.block_size)
    kv_cache = KVCache(architecture, num_blocks, config.block_size, weights.dtype, weights.device)
    host_cache = AdapterCache(load, config.host_cache_mb * 1024**2, config.max_rank, decoder.bank.prepare)
    loader = AdapterLoader(host_cache.load, host_cache.find)
    slots = LoraSlots(config.adapter_slots, loader.get, decoder.bank, config.slots_mb * 1024**2)
    prefixes = PrefixCache(pool, TILE, is_on=False)
    runner = ModelRunner(decoder, kv_cache, (1, 2, 3))
    tokenizer = Tokenizer(make_tokenizer(Path(config.var_dir)))
    machine = Machine(
        tokenizer=tokenizer,
        guides=Guides(tokenizer),
        scheduler=Scheduler(pool, slots, config.max_rows, config.prefill_tokens, prefixes),
        runner=runner,
        slots=slots,
        host_cache=host_cache,
        loader=loader,
        context_length=config.kv_blocks * config.block_size,
        max_rank=config.max_rank,
        fingerprint="bench",
        self_check=self_check(runner, architecture.vocab_size),
    )
    return Engine(config, machine)
