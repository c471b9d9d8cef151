"""A tiny model with adapters of every kind, and the same traffic through the decoder of torch and that of a GPU."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterCache, AdapterStore
from inference.decoders.gpu.bank import SlotBank
from inference.decoders.gpu.decoder import TritonDecoder
from inference.decoders.kv_tensors import KVCache
from inference.model.architecture import TARGETS, read_architecture
from inference.model.weights import load_weights
from tests.inference.checkpoints import load_base, make_adapter, make_model
from tests.inference.families import load_family, make_family
from tests.inference.passes import Chunk, Passes

ADAPTERS: list[dict[str, Any]] = [
    {"r": 8, "target_modules": ["q_proj", "v_proj"]},
    {"r": 16, "target_modules": list(TARGETS), "use_dora": True},
    {"r": 20, "target_modules": ["up_proj", "o_proj", "embed_tokens", "lm_head"], "rank_pattern": {"up_proj": 4}},
]
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 2},
    "mistral": {"num_hidden_layers": 2, "sliding_window": 20, "head_dim": 24},
}


@dataclass(frozen=True)
class World:
    """A model in `model`, and adapters in `store` by their `digests`."""

    model: Path
    store: Path
    digests: list[str]
    max_rank: int = 64


def make_world(directory: Path, kind: str) -> World:
    model, store = make_model(directory / "model", kind, **MODELS[kind]), directory / "adapters"
    store.mkdir()
    return World(model, store, [make_adapter(model, store, seed, **lora) for seed, lora in enumerate(ADAPTERS)])


def make_family_world(directory: Path, variant: str) -> World:
    """A variant of `tests.inference.families`, and one adapter, on all its linears."""
    model, store = make_family(directory / "model", variant), directory / "adapters"
    store.mkdir()
    return World(model, store, [make_adapter(model, store, 0, 0.1, target_modules="all-linear")])


def by_torch(world: World, rounds: int = 1) -> list[Tensor]:
    """The logits that the decoder of `inference.decoders.torch.decoder` computes."""
    return traffic(*make_torch_passes(world), rounds)


def make_torch_passes(world: World) -> tuple[Passes, list[int]]:
    """A decoder of torch, and the slots of base and adapters."""
    decoder = load_family(world.model)
    slots = LoraSlots(5, AdapterStore(world.store, load_base(world.model), world.max_rank).load, decoder.bank)
    return Passes(decoder), acquire(slots, world)


def by_kernels(world: World, device: str, is_deterministic: bool = False, rounds: int = 1) -> list[Tensor]:
    """The logits that the kernels compute."""
    passes, slots = make_passes(world, device, is_deterministic)
    return [rows.cpu() for rows in traffic(passes, slots, rounds)]


def make_passes(world: World, device: str, is_deterministic: bool = False) -> tuple[Passes, list[int]]:
    """A decoder of the kernels, over a cache in which nothing was written yet, and the slots of base and adapters."""
    place = torch.device(device)
    architecture = read_architecture(world.model / "config.json").within(128)
    weights = load_weights(world.model, architecture, torch.float32, place)
    bank = SlotBank(5, world.max_rank, place)
    adapters = AdapterStore(world.store, load_base(world.model), world.max_rank)
    kept = AdapterCache(adapters.load, 2**30, prepare=bank.prepare)
    slots = LoraSlots(5, kept.load, bank)
    cache = KVCache(architecture, 96, 16, torch.float32, place)
    for blocks in cache.keys + cache.values:
        blocks.fill_(float("nan"))
    passes = Passes(TritonDecoder(architecture, weights, bank, 5, is_deterministic))
    passes.cache = cache
    return passes, acquire(slots, world)


def traffic(passes: Passes, slots: list[int], rounds: int = 1) -> list[Tensor]:
    """The logits of some passes, and of passes of the same shapes over other tokens as often as there are `rounds`.

    A round is prompts of every slot, a newcomer among their decode rows, a pass of decode rows only, one of the base's,
    a prompt of the base, and a pass of the base and an adapter of q and v. Of the two that newly come the last rows are
    sampled, as the engine does.
    """
    return [rows for number in range(rounds) for rows in _round(passes, slots, 100 * number)]


def _round(passes: Passes, slots: list[int], seed: int) -> list[Tensor]:
    sequences = [passes.sequence(slot, 64) for slot in slots]
    rows = passes.run(*(Chunk(one, tokens(18 + 7 * n, seed + n)) for n, one in enumerate(sequences)))
    newcomer = Chunk(passes.sequence(slots[1], 64), tokens(12, seed + 50))
    rows += _last_rows(passes, newcomer, *(Chunk(one, tokens(1, seed + 60), False) for one in sequences))
    rows += passes.run(*(Chunk(one, tokens(1, seed + 70), False) for one in sequences))
    rows += passes.run(Chunk(sequences[0], tokens(1, seed + 80), False))
    rows += _last_rows(passes, Chunk(passes.sequence(-1, 64), tokens(40, seed + 90)))
    return rows + passes.run(*(Chunk(one, tokens(1, seed + 95), False) for one in sequences[:2]))


def _last_rows(passes: Passes, *chunks: Chunk) -> list[Tensor]:
    """One pass over all `chunks`; logits [1, vocab] of the last row of each."""
    batch, lengths = passes.batch(*chunks)
    batch = replace(batch, sample_rows=torch.tensor(lengths).cumsum(0) - 1)
    return list(passes.decoder.forward(batch, passes.cache).clone().split(1))


def acquire(slots: LoraSlots, world: World) -> list[int]:
    """The slots of the base and of every adapter, once they are there."""
    acquired = [-1]
    for digest in world.digests:
        while (slot := slots.acquire(digest)) is None:
            time.sleep(0.001)
        acquired.append(slot)
    return acquired


def tokens(count: int, seed: int) -> list[int]:
    return torch.randint(0, 131, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
