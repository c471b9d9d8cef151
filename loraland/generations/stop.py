"""Ending an answer at its reader's wish."""

from __future__ import annotations

from loraland.generations.models import Generation
from loraland.inference_client import wire


async def stop(generation: Generation) -> None:
    """Ask for the end of `generation`, waiting or running; its stream then ends with the reason ``stopped``.

    Stopping twice, or after the end, changes nothing. Whether the visitor may stop it is the caller's to check
    (`reading.generation_of`).
    """
    if not generation.is_finished:
        await wire().stop(generation.wire_id)
