"""Asking the land: a chat whose partner is chosen by its first message, why, and how the visitor changes it."""

from __future__ import annotations

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async

from loraland.playground.models import Conversation, Turn
from tests.loraland.land import ACT, BANK, fill
from tests.loraland.playground.page import Browser, Page
from tests.loraland.playground.test_socket import start

pytestmark = pytest.mark.django_db(transaction=True)


@pytest_asyncio.fixture
async def land(publish) -> None:
    await sync_to_async(fill)(publish)


async def reroute(page: Page, conversation: str, adapter: str) -> dict[str, object]:
    await page.say(type="reroute", request="r2", conversation=conversation, adapter=adapter)
    return await page.hear("started", "refused")


async def shown(browser: Browser, conversation: str) -> str:
    return (await browser.get(f"/chat/{conversation}/")).content.decode()


async def test_the_first_message_chooses_and_the_page_says_why(site_wire, answering, anna, land):
    worker = answering()
    async with anna.page() as page:
        started = await start(page, ACT, adapter="auto")
        await page.hear_out(started["answer"])
    assert started["url"] == f"/chat/{started['conversation']}/"
    assert (worker.seen[0].adapter.digest, worker.seen[0].inputs) == ("g" * 64, {"act": ACT})
    html = await shown(anna, started["conversation"])
    assert "The nearest to what you wrote." in html
    assert 'data-reroute="bank"' in html
    assert 'data-reroute="base"' in html
    assert 'data-reroute="games"' not in html


async def test_the_choice_stays_for_the_chat(site_wire, answering, anna, land):
    worker = answering()
    async with anna.page() as page:
        first = await start(page, ACT, adapter="auto")
        await page.hear_out(first["answer"])
        later = {"conversation": first["conversation"], "adapter": "auto", "inputs": {"act": BANK[0]}}
        second = await start(page, "", **later)
        await page.hear_out(second["answer"])
    assert "url" not in second
    assert [seen.adapter.digest for seen in worker.seen] == ["g" * 64] * 2


async def test_the_base_answers_what_is_for_none_and_says_so(site_wire, answering, anna, land):
    worker = answering()
    async with anna.page() as page:
        started = await start(page, "How do I bake bread?", adapter="auto")
        await page.hear_out(started["answer"])
    assert worker.seen[0].adapter is None
    assert "not of a specialist" in await shown(anna, started["conversation"])


async def test_a_text_that_names_fields_fills_them(site_wire, answering, anna, land):
    worker = answering()
    async with anna.page() as page:
        await page.hear_out((await start(page, "a: A man walks\nb: He sits", adapter="auto"))["answer"])
    assert worker.seen[0].inputs == {"a": "A man walks", "b": "He sits"}


async def test_another_can_be_asked_the_same_in_its_place(site_wire, answering, anna, land):
    worker = answering()
    async with anna.page() as page:
        started = await start(page, ACT, adapter="auto")
        await page.hear_out(started["answer"])
        changed = await reroute(page, started["conversation"], "bank")
        await page.hear_out(changed["answer"])
        back = await reroute(page, started["conversation"], "base")
        await page.hear_out(back["answer"])
    assert changed["url"] == started["url"]
    assert (worker.seen[1].adapter.digest, worker.seen[1].inputs) == ("b" * 64, {"text": ACT})
    assert [message.content for message in worker.seen[2].messages] == [ACT]
    turn = await Turn.objects.aget()
    assert (turn.text, turn.inputs, await turn.answers.acount()) == (ACT, None, 3)
    html = await shown(anna, started["conversation"])
    assert "You chose this one yourself." in html
    assert 'data-reroute="games"' in html


async def test_who_cannot_read_it_is_refused_and_nothing_changes(site_wire, answering, anna, land):
    answering()
    async with anna.page() as page:
        started = await start(page, ACT, adapter="auto")
        await page.hear_out(started["answer"])
        refused = await reroute(page, started["conversation"], "pair")
    assert (refused["type"], refused["code"]) == ("refused", "inputs_required")
    conversation = await Conversation.objects.select_related("adapter").aget()
    assert conversation.adapter.slug == "games"


async def test_a_chat_whose_partner_was_named_and_another_visitors_are_not_changed(
    site_wire, answering, anna, ben, land
):
    answering()
    async with anna.page() as page:
        named = await start(page, "", adapter="games", inputs={"act": ACT})
        await page.hear_out(named["answer"])
        assert (await reroute(page, named["conversation"], "bank"))["code"] == "not_found"
        chosen = await start(page, ACT, adapter="auto")
        await page.hear_out(chosen["answer"])
    async with ben.page() as page:
        assert (await reroute(page, chosen["conversation"], "bank"))["code"] == "not_found"
    assert "chosen-why" not in await shown(anna, named["conversation"])


async def test_the_page_asks_without_a_choice_and_is_offered(anna, land):
    page = (await anna.get("/chat/?adapter=auto&text=Where+is+my+card")).content.decode()
    assert 'data-adapter="auto"' in page
    assert "Where is my card</textarea>" in page
    assert 'href="/chat/?adapter=auto"' in (await anna.get("/chat/adapters/")).content.decode()
    assert 'id="ask"' in (await anna.get("/")).content.decode()


async def test_a_chat_with_a_sum_of_several_is_refused_with_a_sentence(site_wire, anna, land):
    async with anna.page() as page:
        await page.say(type="start", request="r1", conversation=None, adapter="auto:2", text=ACT)
        refused = await page.hear("started", "refused")
    assert (refused["type"], refused["code"]) == ("refused", "invalid_model")
    assert "one adapter, not with the sum of 2" in refused["error"]
