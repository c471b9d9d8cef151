"""What all who wait in silence are told of the rows."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from inference.wire.protocol import Failed
from loraland.generations.models import Generation, GenerationQuerySet
from loraland.generations.outcomes import Outcomes

pytestmark = pytest.mark.django_db(transaction=True)


async def row() -> Generation:
    return await Generation.objects.acreate(source=Generation.Source.API, base="tiny", request={})


async def test_only_a_row_with_an_outcome_has_ended():
    waiting, failed = await row(), await row()
    await failed.afail(Failed(failed.wire_id, "lost", "Send it again."))
    told = Outcomes()
    assert not await told.has_ended(waiting.id, 60)
    assert await told.has_ended(failed.id, 60)


async def test_the_database_is_asked_once_for_all_who_wait(monkeypatch):
    waiting, asked, unfinished = await row(), [], GenerationQuerySet.unfinished
    monkeypatch.setattr(GenerationQuerySet, "unfinished", lambda rows: asked.append(1) or unfinished(rows))
    told = Outcomes()
    answers = await asyncio.gather(*(told.has_ended(id, 60) for id in [waiting.id, uuid4()] * 50))
    assert answers == [False, True] * 50
    assert len(asked) == 1


async def test_what_was_told_too_long_ago_is_asked_again():
    told, generation = Outcomes(), await row()
    assert not await told.has_ended(generation.id, 0)
    await generation.afail(Failed(generation.wire_id, "lost", "Send it again."))
    assert await told.has_ended(generation.id, 0)
