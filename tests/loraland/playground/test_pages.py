"""The pages around the socket: whose they are, what they prefill, and that they send nothing by themselves."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from django.conf import settings as site_settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.http import HttpResponse, QueryDict
from django.test import Client

from loraland.catalogue.models import AdapterVersion
from loraland.generations.models import Generation
from loraland.playground import compare_views
from loraland.playground.models import Answer, Conversation, Turn
from tests.loraland.playground.conftest import EMOTION, TOPIC

pytestmark = pytest.mark.django_db

HTMX = {"HX-Request": "true"}


@pytest.fixture
def topic(publish: Callable[..., AdapterVersion]) -> AdapterVersion:
    return publish("topic", "a", **TOPIC)


@pytest.fixture
def kept(client: Client, topic: AdapterVersion) -> Conversation:
    """A chat of this client with one answered turn."""
    key = client.session.session_key
    conversation = Conversation.objects.create(session_key=key, adapter=topic.adapter, title="Bridges")
    turn = Turn.objects.create(conversation=conversation, inputs={"title": "Tower Bridge", "text": "In London."})
    generation = Generation.objects.create(
        session_key=key, tenant=f"session:{key}", source="chat", adapter_version=topic, base="b",
        request={"sampling": {"temperature": 0}}, status="done", text="Building <b>", stats={"completion_tokens": 1},
    )  # fmt: skip
    Answer.objects.create(turn=turn, generation=generation)
    return conversation


def html(response: HttpResponse) -> str:
    assert response.status_code == 200
    return response.content.decode()


@pytest.mark.parametrize("path", ["/", "/chat/", "/chat/list/", "/chat/adapters/", "/compare/", "/leaderboard/"])
def test_a_look_at_a_page_leaves_no_session(client, topic, path):
    """Whoever only looks is forgotten; the page's socket, which a browser opens, begins the session."""
    page = html(client.get(path))
    assert (Session.objects.count(), site_settings.SESSION_COOKIE_NAME in client.cookies) == (0, False)
    has_socket = path in ("/chat/", "/compare/")
    assert ('data-socket="/ws/answers/?new"' in page) == has_socket


def test_a_page_of_a_visitor_who_is_known_asks_for_no_new_session(client, kept):
    assert 'data-socket="/ws/answers/"' in html(client.get("/chat/"))


def test_a_chat_shows_one_field_for_each_variable(client, topic):
    page = html(client.get("/chat/?adapter=topic"))
    assert re.findall(r'<textarea [^>]*name="(\w+)"', page) == ["title", "text"]


def test_the_base_has_free_text(client, topic):
    assert re.findall(r'<textarea [^>]*name="(\w+)"', html(client.get("/chat/?adapter=base"))) == ["text"]


def test_an_example_in_the_address_fills_the_fields_and_sends_nothing(client, topic):
    page = html(client.get("/chat/?adapter=topic&example=0"))
    assert "A bridge in London.</textarea>" in page
    assert not re.search(r'class="turn" data-turn="\d', page)
    assert not Generation.objects.exists()


@pytest.mark.parametrize("number", ["7", "-1", "x", "0.5", "²"])
def test_an_example_that_is_not_there_fills_nothing(client, topic, number):
    assert "A bridge in London.</textarea>" not in html(client.get("/chat/", {"adapter": "topic", "example": number}))


def test_a_chat_with_an_unknown_adapter_is_not_found(client):
    assert client.get("/chat/?adapter=nobody").status_code == 404


def test_a_kept_chat_shows_its_turns_with_their_words_escaped(client, kept):
    page = html(client.get(kept.get_absolute_url()))
    assert "Tower Bridge" in page
    assert "Building &lt;b&gt;" in page


def test_another_visitors_chat_is_nowhere(client, kept):
    stranger = Client()
    stranger.get("/chat/")
    assert stranger.get(kept.get_absolute_url()).status_code == 404
    assert stranger.get(f"{kept.get_absolute_url()}rename/").status_code == 404
    assert stranger.post(f"{kept.get_absolute_url()}rename/", {"title": "Mine"}).status_code == 404
    assert stranger.post(f"{kept.get_absolute_url()}delete/").status_code == 404
    assert "Bridges" not in html(stranger.get("/chat/list/"))
    assert Conversation.objects.get().title == "Bridges"


def test_a_users_chat_is_not_the_sessions(client, kept):
    client.force_login(User.objects.create_user("ada", password="correct-horse-9"))
    assert client.get(kept.get_absolute_url()).status_code == 404


def test_a_chat_is_renamed_in_its_place(client, kept):
    entry = html(client.post(f"{kept.get_absolute_url()}rename/", {"title": " Old  bridges "}, headers=HTMX))
    assert "Old bridges" in entry
    assert Conversation.objects.get().title == "Old bridges"


def test_a_title_that_cannot_be_kept_changes_nothing(client, kept):
    client.post(f"{kept.get_absolute_url()}rename/", {"title": "a\0b"}, headers=HTMX)
    assert Conversation.objects.get().title == "Bridges"


@pytest.mark.django_db(transaction=True)
def test_a_deleted_chat_takes_its_answers_along(client, kept):
    assert html(client.post(f"{kept.get_absolute_url()}delete/", headers=HTMX)) == ""
    assert not Conversation.objects.exists()
    assert not Generation.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_chat_is_deleted_though_its_answer_cannot_be_stopped(client, kept, settings):
    settings.REDIS_URL = "redis://127.0.0.1:1"
    Generation.objects.update(status="queued")
    assert html(client.post(f"{kept.get_absolute_url()}delete/", headers=HTMX)) == ""
    assert not Conversation.objects.exists()
    assert not Generation.objects.exists()


def test_the_picker_finds_adapters_by_their_words(client, publish, topic):
    publish("emotion", "b", **EMOTION)
    page = html(client.get("/chat/adapters/?q=emo", headers=HTMX))
    assert "?adapter=emotion" in page
    assert "?adapter=topic" not in page
    assert "Nothing fits" in html(client.get("/chat/adapters/?q=zebra", headers=HTMX))


def test_the_picker_is_a_page_without_scripts(client, topic):
    assert "<html" in html(client.get("/chat/adapters/"))


def test_compare_reads_its_columns_from_the_address(client, topic):
    page = html(client.get("/compare/?columns=topic,base"))
    assert re.findall(r'data-name="([^"]*)"', page) == ["topic", "base"]
    assert "reads Topic’s filled-in template" in page


def test_compare_takes_a_version_by_the_start_of_its_digest(client, publish, topic):
    publish("topic", "c", status="retired", **TOPIC)
    page = html(client.get("/compare/?columns=topic,topic@cccccc"))
    assert re.findall(r'data-name="([^"]*)"', page) == ["topic", "topic@cccccccccccc"]


def test_names_of_columns_are_read_back_from_the_address_as_they_are() -> None:
    names = ["base:Tiny+Llama", "topic@cccccc"]
    assert QueryDict(compare_views._choice(names, 1).removeprefix("?"))["columns"] == ",".join(names)
    assert QueryDict(compare_views._address(names).removeprefix("?"))["columns"] == ",".join(names)


@pytest.mark.parametrize("columns", ["nobody,base", "topic@ffffff,base", "../etc,base"])
def test_compare_with_an_unknown_column_is_not_found(client, topic, columns):
    assert client.get("/compare/", {"columns": columns}).status_code == 404


def test_compare_has_two_columns_even_when_none_is_named(client, topic):
    assert len(re.findall('data-name="', html(client.get("/compare/")))) == 2


def test_pages_hold_no_inline_script_or_style(client, kept):
    for path in ("/chat/", "/chat/?adapter=topic", kept.get_absolute_url(), "/compare/?columns=topic,base"):
        page = html(client.get(path))
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page)


def scored(base: float, tuned: float, **more: str) -> dict[str, object]:
    return {"metric": "accuracy", "base": base, "tuned": tuned, "n": 100, **more}


def test_the_empty_chat_offers_who_gained_most_first_and_nobody_who_gained_nothing(client, publish):
    publish("small", "a", score=scored(0.1, 0.2))
    publish("none", "b", score=scored(0.5, 0.9, gain="no clear gain"))
    publish("worse", "c", score=scored(0.5, 0.4))
    publish("large", "d", score=scored(0.1, 0.9))
    publish("unmeasured", "e")
    page = html(client.get("/chat/"))
    assert re.findall(r'class="specialist .*?adapter=(\w+)"', page) == ["large", "small", "unmeasured"]


def test_the_empty_chat_says_what_a_base_and_an_adapter_are(client, topic):
    assert "<b>LoRA</b> (low-rank adaptation) is a small file" in html(client.get("/chat/"))


def test_a_chat_with_a_template_says_all_along_that_earlier_messages_are_not_seen(client, kept, publish):
    publish("emotion", "b", **EMOTION)
    note = "earlier messages are not seen"
    assert f"It reads one message at a time, as “Tweet”: {note}" in html(client.get("/chat/?adapter=emotion"))
    assert f"It reads what stands in these fields and nothing else: {note}" in html(client.get(f"/chat/{kept.id}/"))
    assert note not in html(client.get("/chat/?adapter=base"))
    assert note not in html(client.get("/compare/?columns=emotion,base"))


@pytest.mark.parametrize(("tokens", "is_told"), [(7, False), (8, True)])
def test_the_speed_of_a_few_tokens_is_not_told(client, kept, tokens, is_told):
    Generation.objects.update(stats={"completion_tokens": tokens, "tokens_per_second": 1.6})
    assert ("tokens/s" in html(client.get(f"/chat/{kept.id}/"))) == is_told


def test_a_seed_is_told_where_it_matters_and_only_when_asked_for(client, kept):
    Generation.objects.update(stats={"completion_tokens": 9, "seed": 9158372615342615})
    assert "9158372615342615" not in html(client.get(f"/chat/{kept.id}/"))
    Generation.objects.update(request={"sampling": {"temperature": 0.7}})
    assert "<b>9158372615342615</b></details>" in html(client.get(f"/chat/{kept.id}/"))


def test_an_example_in_a_chat_is_judged_beside_its_answer(client, kept):
    example = TOPIC["examples"][0]
    Generation.objects.update(request={"inputs": example["inputs"]}, text=example["expected"])
    assert ">As expected</p>" in html(client.get(f"/chat/{kept.id}/"))
    Generation.objects.update(text="Village")
    page = html(client.get(f"/chat/{kept.id}/"))
    assert ">Not as expected</p>" in page
    assert '<del><span class="visually-hidden">not expected: </span>Village</del>' in page
    assert '<ins><span class="visually-hidden">missing: </span>Building</ins>' in page


def test_the_page_of_an_adapter_says_how_a_key_is_had(client, admin_client, topic):
    assert "ask whoever runs it" in html(client.get("/adapters/topic/"))
    assert "/admin/api/apikey/add/" in html(admin_client.get("/adapters/topic/"))
