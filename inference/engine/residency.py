"""What an engine holds and how busy it is, as its worker tells it with every heartbeat."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Residency:
    """The fields of a heartbeat that an engine knows."""

    on_device: tuple[str, ...]
    in_host: tuple[str, ...]
    running: int
    waiting: int
    free_blocks: int
    total_blocks: int
    named_blocks: int
    drafted_tokens: int
    accepted_tokens: int
    context_length: int
    max_rank: int
    self_check: str
    loads: int
    reloads: int
    adapter_loads: tuple[tuple[str, int], ...]
    preempted: int
    displaced: int
