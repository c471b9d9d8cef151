"""Everything an engine is made of, put together from a config: weights, caches, tokenizer, and what they measure."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import torch

from inference.adapters.file import Base
from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterCache, AdapterStore, Told
from inference.adapters.stored import cache_of
from inference.config import ConfigError, EngineConfig, check_stages
from inference.decoders.choice import make_decoder
from inference.decoders.contract import Decoder
from inference.decoders.pipeline.start import make_pipeline
from inference.engine.deadlines import Deadlines
from inference.engine.defaults import read_defaults
from inference.engine.incoming import Incoming
from inference.engine.loading import AdapterLoader
from inference.engine.model_runner import ModelRunner, canary_blocks
from inference.engine.self_check import differs, self_check
from inference.fetch import find_model
from inference.model.added_tokens import AddedToken
from inference.model.architecture import Architecture, read_architecture
from inference.model.base_weights import BaseWeights
from inference.model.checkpoints import with_own_head
from inference.model.fingerprint import fingerprint, of_nobody_else
from inference.model.heap import trim_heap
from inference.model.quantization import settle_quantization
from inference.model.tokenizer import Tokenizer
from inference.model.torch_environment import EXACT_SUMS
from inference.model.weights import stream_weights
from inference.scheduling.kv_cache import BlockPool
from inference.scheduling.prefix_cache import PrefixCache
from inference.scheduling.scheduler import Scheduler
from inference.structured.guide import Guides
from inference.tile import TILE
from inference.wire.protocol import AdapterRef

log = logging.getLogger(__name__)

CANARY: Final = "The ferry leaves the harbour at noon, and the keeper of the small museum writes down"
"""The prompt on which a probed adapter must change the base's logits. Cut to one tile."""
MOST_TOKENIZERS: Final = 256
"""Sets of adapters' own tokens that are kept in mind."""
CPU_CONTEXT: Final = 4096
"""The longest context on a CPU, where nobody waits for more."""
CPU_CACHE_BYTES: Final = 1024**3
GPU_CACHE_SHARE: Final = 0.85
"""How much of the memory that the weights leave free goes to the key-value cache; passes need the rest."""


@dataclass
class Machine:
    """The parts of an engine. `context_length` counts the tokens of prompt and answer together."""

    tokenizer: Tokenizer
    scheduler: Scheduler
    runner: ModelRunner
    slots: LoraSlots
    host_cache: AdapterCache
    loader: AdapterLoader
    guides: Guides
    context_length: int
    max_rank: int
    fingerprint: str
    self_check: str
    deadlines: Deadlines = field(default_factory=Deadlines)
    default_sampling: Mapping[str, float] = field(default_factory=dict)
    """What stands for parameters that a caller left out."""
    told_of: Callable[[str], Told] = lambda digest: Told()
    """What an adapter asks of its prompts; nothing of one that is not stored."""
    incoming: Incoming = field(default_factory=Incoming)
    _tokenizers: dict[tuple[AddedToken, ...], Tokenizer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pool = self.scheduler.pool
        assert self.context_length <= pool.num_blocks * pool.block_size, "one sequence must fit into the cache"

    def tokenizer_of(self, adapter: AdapterRef | None) -> Tokenizer:
        """The base's tokenizer, with the tokens of `adapter`, of a sum those of its first part."""
        parts = adapter.components if adapter else ()
        tokens = self.told_of(parts[0].digest if parts else adapter.digest).tokens if adapter else ()
        if tokens and tokens not in self._tokenizers:
            while len(self._tokenizers) >= MOST_TOKENIZERS:
                del self._tokenizers[next(iter(self._tokenizers))]
            self._tokenizers[tokens] = self.tokenizer.extended(tokens)
        return self._tokenizers[tokens] if tokens else self.tokenizer


def build_machine(config: EngineConfig) -> Machine:
    """Load the base model of `config` and put the parts around it. Raises what its parts raise, with a sentence."""
    device, dtype = _device(config), getattr(torch, config.dtype)
    if config.threads:
        torch.set_num_threads(config.threads)
    if device.type == "cuda" and config.memory_share < 1:
        torch.cuda.set_per_process_memory_fraction(config.memory_share, device)
    directory = find_model(config)
    architecture = with_own_head(directory, read_architecture(directory / "config.json"))
    defaults = read_defaults(directory) if config.default_sampling == "model" else {}
    context = _context_length(config, architecture, device)
    architecture = architecture.within(context)
    config = replace(config, quantization=settle_quantization(config.quantization, directory, architecture, device))
    # It takes more while it is read than it keeps, so it comes before the weights are there.
    tokenizer = Tokenizer(directory)
    trim_heap()
    decoder = _decoder(config, directory, architecture, device, context)
    pool = BlockPool(_num_blocks(config, architecture, dtype, device, context), config.block_size)
    context = min(context, pool.num_blocks * config.block_size)
    prefixes = PrefixCache(
        pool,
        TILE,
        is_on=config.prefix_cache != "off",
        rows_are_uniform=decoder.rows_are_uniform,
        is_shared=config.prefix_cache != "tenant",
    )
    num_blocks = pool.num_blocks + canary_blocks(config.block_size)
    cache = decoder.make_cache(architecture, num_blocks, config.block_size, dtype, device)
    of_base = BaseWeights(directory, architecture, dtype)
    base = Base(
        architecture,
        dtype,
        of_base.read,
        of_base.bias,
        of_base.identity,
        is_nf4=config.quantization == "nf4",
        is_packed=decoder.bank.is_packed,
        is_in_fewer_bits=of_base.is_in_fewer_bits,
    )
    on_disk = cache_of(config.adapter_store, config.adapters_dir, config.adapter_cache_mb)
    store = AdapterStore(config.adapters_dir, base, config.max_rank, on_disk)
    host_cache = AdapterCache(
        store.load, config.host_cache_mb * 1024**2, config.max_rank, decoder.bank.prepare, store.gate
    )
    loader = AdapterLoader(host_cache.load, host_cache.find)
    slots = LoraSlots(config.adapter_slots, loader.get, decoder.bank, config.slots_mb * 1024**2)
    runner = ModelRunner(decoder, cache, tuple(tokenizer.encode(CANARY)[:TILE]))
    check = self_check(runner, architecture.vocab_size)
    told = fingerprint(config, directory, dtype, device, context, decoder.unit)
    return Machine(
        tokenizer=tokenizer,
        scheduler=Scheduler(pool, slots, config.max_rows, config.prefill_tokens, prefixes, config.tenant_weights),
        runner=runner,
        slots=slots,
        host_cache=host_cache,
        loader=loader,
        guides=Guides(tokenizer),
        context_length=context,
        max_rank=config.max_rank,
        fingerprint=_own_if_broken(config, device, told, check),
        self_check=check,
        deadlines=Deadlines(config.first_token_within),
        default_sampling=defaults,
        told_of=store.told,
        incoming=_incoming(store, host_cache),
    )


def _decoder(
    config: EngineConfig, directory: Path, architecture: Architecture, device: torch.device, context: int
) -> Decoder:
    """The base in this process, or in `config.stages` of them."""
    if config.stages > 1:
        return make_pipeline(config, directory, architecture, context)
    weights = stream_weights(directory, architecture, getattr(torch, config.dtype), device, config.quantization)
    decoder = make_decoder(config, architecture, weights)
    del weights
    trim_heap()
    return decoder


def _incoming(store: AdapterStore, host_cache: AdapterCache) -> Incoming:
    """What is in memory needs no file, though its folder may have gone from the disk."""

    def is_here(digest: str) -> bool:
        return store.is_here(digest) or (store.knows(digest) and host_cache.find(digest) is not None)

    return Incoming(is_here, store.fetch)


def _own_if_broken(config: EngineConfig, device: torch.device, told: str, check: str) -> str:
    """The fingerprint `told`, or one that no other worker has where `check` breaks the promise of exact rows.

    On a GPU that promise is made with DETERMINISTIC=1 only.
    """
    if not differs(check) or (device.type == "cuda" and not config.deterministic):
        return told
    log.error(
        "NOT EXACT: %s. Answers of this worker depend on what it computes beside them, it takes none over from others "
        "and none of its own can be taken over. Unset %s, or take THREADS=1",
        check,
        EXACT_SUMS,
    )
    return of_nobody_else(told)


def _device(config: EngineConfig) -> torch.device:
    has_cuda = torch.cuda.is_available()
    if config.device == "cuda" and not has_cuda:
        raise ConfigError("DEVICE is cuda, but torch finds no CUDA device; choose cpu or auto")
    device = torch.device("cuda" if has_cuda and config.device != "cpu" else "cpu")
    check_stages(config.stages, device.type)  # DEVICE=auto says only here what it comes to
    return device


def _context_length(config: EngineConfig, architecture: Architecture, device: torch.device) -> int:
    """The model's own, or less: what was asked for, and on a CPU `CPU_CONTEXT`."""
    wanted = config.context_length or (CPU_CONTEXT if device.type == "cpu" else architecture.max_position)
    return min(wanted, architecture.max_position)


def _num_blocks(
    config: EngineConfig, architecture: Architecture, dtype: torch.dtype, device: torch.device, context: int
) -> int:
    """`KV_BLOCKS`, or as many as memory has room for, but never more than all rows at full length can use."""
    if config.kv_blocks:
        return config.kv_blocks
    per_token = 2 * architecture.num_layers * architecture.num_kv_heads * architecture.head_dim * dtype.itemsize
    affordable = _cache_bytes(device, config.slots_mb * 1024**2, config.memory_share) // (per_token * config.block_size)
    useful = config.max_rows * -(-context // config.block_size)
    if affordable < 2:
        raise ConfigError("there is no memory left for the key-value cache; free some, or choose a smaller base model")
    return int(min(affordable, useful))


def _cache_bytes(device: torch.device, slot_bytes: int, share: float) -> int:
    """On a GPU what adapters may take there is left free, up to a fourth of what this worker's share leaves free."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        free = min(free, int(share * total) - torch.cuda.memory_reserved(device))
        return int((free - min(slot_bytes, free // 4)) * GPU_CACHE_SHARE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(CPU_CACHE_BYTES, memory // 8)
