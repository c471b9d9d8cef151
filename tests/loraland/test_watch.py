"""When a service counts as silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import pytest

from loraland.watch import Silent, Unwell, Watch


class Looks:
    """They find what was written down for them: True for a sign, False for silence, None where none can tell."""

    def __init__(self, found: Iterable[bool | None]) -> None:
        self._found = iter(found)
        self.count = 0

    async def __call__(self) -> None:
        found = next(self._found)
        self.count += 1
        if found is None:
            raise Unwell("nobody can tell")
        if not found:
            raise Silent(f"look {self.count}")


async def silence(looks: Looks, patience: int = 2) -> str:
    return await Watch(looks, every=0.001, patience=patience, grace=3 * patience).silence()


async def test_as_many_looks_in_vain_as_there_is_patience_are_silence() -> None:
    assert await silence(Looks([True, False, False])) == "look 3"


async def test_one_answer_makes_up_for_those_that_were_missed() -> None:
    assert await silence(Looks([True, False, True, False, True, False, False])) == "look 7"


async def test_a_service_that_has_not_answered_yet_gets_more_patience() -> None:
    assert await silence(Looks([False] * 6)) == "look 6"


async def test_where_nobody_can_tell_nothing_is_held_against_a_service() -> None:
    assert await silence(Looks([True, *[None] * 20, False, *[None] * 20, False])) == "look 43"


async def test_a_watcher_that_was_stopped_itself_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a sleep everybody is late at once: what was missed meanwhile is nobody's silence."""
    monkeypatch.setattr("loraland.watch.SECONDS_A_LOOK", 0.05)
    looks = Looks([True, False, False, False, False])

    async def look() -> None:
        if looks.count == 2:
            time.sleep(0.3)  # noqa: ASYNC251 - the whole process stands still
        await looks()

    assert await Watch(look, every=0.001, patience=2).silence() == "look 5"


async def test_silence_can_be_waited_for_in_vain() -> None:
    waiting = asyncio.create_task(Watch(Looks([True] * 10_000), every=0.001, patience=1).silence())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    waiting.cancel()
