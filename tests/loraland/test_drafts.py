"""A version that was never published is seen by staff alone, through every door of the site: the doors as a table."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from django.conf import settings as site_settings
from django.contrib.auth.models import User
from django.utils import timezone

from loraland.api.models import ApiKey
from loraland.catalogue.models import AdapterVersion
from loraland.evals.models import Run
from loraland.generations.models import Generation
from loraland.generations.start import start
from loraland.refusal import Refused
from tests.loraland.playground.page import Browser
from tests.loraland.scripted_worker import ScriptedWorker

pytestmark = pytest.mark.django_db(transaction=True)

SHOWN, DRAFT, NOBODY = "a" * 64, "b" * 64, "c" * 64
RUN = UUID(int=7)
FRESH = re.compile(r'nonce="[^"]*"|csrf[^>]*', re.IGNORECASE)
"""What differs in a page from one look at it to the next."""


class Reader:
    """Somebody with a browser and a key for programs."""

    def __init__(self, kind: str, user: User | None) -> None:
        self.kind = kind
        self.browser = Browser(user)
        key = ApiKey(name=kind, user=user)
        self._bearer = {"HTTP_AUTHORIZATION": f"Bearer {key.seal()}"}
        key.save()

    async def read(self, path: str) -> tuple[int, str]:
        response = await self.browser.get(path, **self._bearer)
        body = b"".join([part async for part in response]) if response.streaming else response.content
        return response.status_code, body.decode()

    async def ask(self, path: str, **body: Any) -> tuple[int, str]:
        response = await self.browser.post(path, body, content_type="application/json", **self._bearer)
        return response.status_code, response.content.decode()

    async def compare(self, column: str) -> dict[str, Any]:
        async with self.browser.page() as page:
            await page.say(type="compare", request="c", columns=[column, "base"], text="Hello")
            return await page.hear("compared", "refused")


@pytest_asyncio.fixture(params=["stranger", "user", "staff"])
async def reader(request: pytest.FixtureRequest, transactional_db: None) -> Reader:
    kind: str = request.param

    def make() -> Reader:
        user = User.objects.create_user(kind, is_staff=kind == "staff") if kind != "stranger" else None
        return Reader(kind, user)

    found = await sync_to_async(make)()
    await found.browser.visit()
    return found


@pytest_asyncio.fixture(params=["ready", "retired"])
async def draft(request: pytest.FixtureRequest, publish: Callable[..., AdapterVersion]) -> AdapterVersion:
    """A draft of a published adapter, beside its published version; a draft that was given up is one still."""
    await sync_to_async(publish)("emotion", SHOWN[0])
    await sync_to_async(publish)("other", "d")
    return await sync_to_async(publish)("emotion", DRAFT[0], status=request.param, published_at=None)


async def listed_for_programs(reader: Reader) -> bool:
    return DRAFT in (await reader.read("/v1/models"))[1]


async def on_the_adapters_page(reader: Reader) -> bool:
    return DRAFT[:12] in (await reader.read("/adapters/emotion/"))[1]


async def in_the_menus_of_compare(reader: Reader) -> bool:
    return DRAFT[:12] in (await reader.read("/chat/adapters/?columns=emotion,base&position=0"))[1]


async def in_the_catalogue(reader: Reader) -> bool:
    return any([DRAFT[:12] in (await reader.read(path))[1] for path in ("/", "/?q=emotion", "/workers/", "/chat/")])


MENTIONS: dict[Callable[[Reader], Awaitable[bool]], tuple[str, ...]] = {
    listed_for_programs: ("ready", "retired"),
    on_the_adapters_page: ("ready", "retired"),
    in_the_menus_of_compare: ("ready",),
    in_the_catalogue: (),
}
"""Doors that tell what there is, and the states of a draft in which they tell staff of it."""


@pytest.mark.parametrize("door", MENTIONS, ids=lambda door: door.__name__)
async def test_a_draft_is_mentioned_to_staff_alone(door, reader, draft, site_wire):
    worker = ScriptedWorker(site_wire, site_settings.BASE_KEY)
    await worker.beat()
    assert await door(reader) == (reader.kind == "staff" and draft.status in MENTIONS[door])


async def named_to_the_api(reader: Reader, digest: str) -> tuple[int, str]:
    return await reader.read(f"/v1/models/emotion@{digest}")


async def named_in_a_sum(reader: Reader, digest: str) -> tuple[int, str]:
    return await reader.read(f"/v1/models/0.5*other+0.5*emotion@{digest}")


async def chatted_with(reader: Reader, digest: str) -> tuple[int, str]:
    messages = [{"role": "user", "content": "Hello"}]
    return await reader.ask("/v1/chat/completions", model=f"emotion@{digest}", messages=messages)


async def completed(reader: Reader, digest: str) -> tuple[int, str]:
    return await reader.ask("/v1/completions", model=f"emotion@{digest}", prompt="Hello")


async def compared_on_a_page(reader: Reader, digest: str) -> tuple[int, str]:
    status, page = await reader.read(f"/compare/?columns=base,emotion@{digest}")
    return status, FRESH.sub("", page)


async def compared_over_the_socket(reader: Reader, digest: str) -> tuple[int, str]:
    told = await reader.compare(f"emotion@{digest}")
    return (200, "") if told["type"] == "compared" else (404, f"{told['code']} {told['error']}")


NAMES = (named_to_the_api, named_in_a_sum, chatted_with, completed, compared_on_a_page, compared_over_the_socket)
"""Doors at which a version can be named."""


@pytest.mark.parametrize("length", [64, 12])
@pytest.mark.parametrize("door", NAMES, ids=lambda door: door.__name__)
async def test_who_names_a_draft_gets_the_answer_for_what_never_was(door, length, reader, draft, answering):
    answering()
    status, _ = await door(reader, SHOWN[:length])
    assert status == 200
    status, told = await door(reader, DRAFT[:length])
    missing, nothing = await door(reader, NOBODY[:length])
    assert missing == 404
    if reader.kind == "staff":
        assert status == 200
    else:
        assert (status, told.replace(DRAFT[:length], NOBODY[:length])) == (404, nothing)


async def test_a_prefix_that_a_draft_shares_with_a_public_version_means_the_public_one(reader, publish, site_wire):
    await sync_to_async(publish)("emotion", "a")
    await sync_to_async(publish)("emotion", "aaaaaab" + "b" * 57, status="ready")
    status, told = await reader.read("/v1/models/emotion@aaaaaa")
    assert (status, SHOWN in told) == ((404, False) if reader.kind == "staff" else (200, True))


async def test_what_a_draft_earned_is_read_by_staff_alone(reader, draft, site_wire):
    facts = {"task": "emotion", "metric": "accuracy", "n": 1, "base": site_settings.BASE_NAME, "score": 0.123}
    tuned = {**facts, "subject": "adapter", "adapter": "emotion", "digest": DRAFT}
    await Run.objects.acreate(id=RUN, finished=timezone.now(), **tuned)
    await Run.objects.acreate(subject="base", finished=timezone.now(), **facts)
    for path in ("/leaderboard/", "/leaderboard.csv", "/leaderboard.json", "/leaderboard/emotion/"):
        status, told = await reader.read(path)
        assert (status in (200, 404), DRAFT[:12] in told, str(RUN) in told) == (True, False, False)
    assert (await reader.read(f"/runs/{RUN}/"))[0] == (200 if reader.kind == "staff" else 404)


async def test_whatever_door_forgets_to_look_a_draft_answers_to_staff_alone(reader, draft, site_wire):
    asking = start(reader.browser.visitor, Generation.Source.COMPARE, draft, prompt="Hello")
    if reader.kind == "staff":
        return await asking
    with pytest.raises(Refused, match="is published") as refused:
        await asking
    assert (refused.value.code, await Generation.objects.acount()) == ("model_not_found", 0)


def test_the_rule_is_the_same_for_one_version_as_for_the_database(db, publish):
    """Every state, shown or not, meant to be published or not, published before or not."""
    kinds = product(AdapterVersion.Status, (True, False), (None, timezone.now()), (True, False))
    for number, (status, is_eager, published_at, is_shown) in enumerate(kinds):
        version = publish(f"a{number}", "a", "ready", publish_when_ready=is_eager, published_at=published_at)
        AdapterVersion.objects.filter(pk=version.pk).update(status=status)
        version.adapter.published = version if is_shown else None
        version.adapter.save()
    drafts = {version.pk for version in AdapterVersion.objects.drafts()}
    every = AdapterVersion.objects.select_related("adapter")
    assert drafts == {version.pk for version in every if version.is_draft}
    assert 0 < len(drafts) < len(every)
    stranger = set(AdapterVersion.objects.seen_by(User()).values_list("pk", flat=True))
    assert (stranger & drafts, len(stranger | drafts)) == (set(), len(every))
    assert AdapterVersion.objects.seen_by(User(is_staff=True)).count() == len(every)
