"""Lists of thousands: each page is a window, found and counted by the database, whatever there is beside it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.db.models import QuerySet
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from loraland.catalogue.listed import ListedAdapter
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.tasks import complete_lists
from loraland.catalogue.windows import WINDOW
from tests.bench import crowd

pytestmark = pytest.mark.django_db
Publish = Callable[..., AdapterVersion]
PAGES = [
    *("/", "/?sort=name", "/?q=crowd", "/?kind=adapters", "/chat/", "/chat/?adapter=auto"),
    *("/chat/adapters/", "/chat/adapters/?q=crowd", "/compare/", "/adapters/crowd-00000/", "/workers/"),
    *("/leaderboard/", "/leaderboard/?sort=base", "/leaderboard/crowd_task_0/", "/paper/", "/paper/complexity/"),
]
SLACK = 1.1
"""By how much a page with ten times as many adapters may be longer: its numbers have more digits."""


def html(client: Client, address: str, **headers: str) -> str:
    response = client.get(address, headers=headers)
    assert response.status_code == 200, address
    return response.content.decode()


def slugs(page: str) -> list[str]:
    return re.findall(r'<h3><a href="/adapters/([\w-]+)/">', page)


def following(page: str) -> str:
    """The address at which a list goes on, by its own link; empty at its end."""
    found = re.search(r'id="more"><a[^>]* href="([^"]+)"', page)
    return found[1].replace("&amp;", "&") if found else ""


def cost(client: Client, address: str) -> tuple[int, int]:
    """Queries and bytes of a page."""
    with CaptureQueriesContext(connection) as asked:
        page = html(client, address)
    return len(asked), len(page)


def test_no_page_costs_more_for_ten_times_as_many_adapters(client: Client) -> None:
    crowd.fill(80)
    few = {address: cost(client, address) for address in PAGES}

    crowd.fill(720, start=80)
    for address, (queries, size) in few.items():
        asked, read = cost(client, address)
        assert asked <= queries, address
        assert read <= SLACK * size + 2000, address


@pytest.mark.parametrize("order", ["gain", "kind", "name", "newest", "size"])
def test_windows_show_every_adapter_once_in_the_order_of_the_whole_list(client: Client, order: str) -> None:
    crowd.fill(150)
    seen, address = list[str](), f"/?sort={order}"
    while address:
        page = html(client, address, **({"HX-Target": "more"} if seen else {}))
        found = slugs(page)
        assert len(found) <= WINDOW
        seen += found
        address = following(page)
    assert len(seen) == len(set(seen)) == 150


def test_an_adapter_that_comes_meanwhile_repeats_none_and_hides_none(client: Client, publish: Publish) -> None:
    crowd.fill(100)
    first = html(client, "/?sort=name")
    publish("aaa", "f")  # before all of them
    Adapter.objects.filter(slug=slugs(first)[0]).update(published=None)  # and one that was shown goes
    second = html(client, following(first))
    assert not {*slugs(first)} & {*slugs(second)}
    assert len({*slugs(first), *slugs(second)}) == 100


def test_a_window_says_how_many_there_are_in_all_and_begins_what_did_not_help_once(client: Client) -> None:
    crowd.fill(150)
    pages, address = [], "/"
    while address:
        pages.append(html(client, address))
        address = following(pages[-1])
    assert all("150" in page for page in pages)
    assert sum("Where fine-tuning did not help" in page for page in pages) == 1


def test_entries_of_one_task_tell_whose_they_are(client: Client) -> None:
    crowd.fill(5)
    board = html(client, "/leaderboard/")
    names = Adapter.objects.filter(slug__in=["crowd-00000", "crowd-00004"]).values_list("name", flat=True)
    assert all(f'<span class="board-kind">{name}</span>' in board for name in names)


def test_how_many_there_are_is_told_in_a_place_that_stays(client: Client) -> None:
    crowd.fill(8)
    assert 'id="picker-count" role="status">7 adapters found<' in html(client, "/chat/adapters/?q=crowd-0000")
    part = html(client, "/chat/adapters/?q=crowd-0000", **{"HX-Request": "true", "HX-Target": "picker-list"})
    assert 'hx-swap-oob="innerHTML:#picker-count">7 adapters found<' in part


def _place(*values: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode()


@pytest.mark.parametrize(
    "after", ["7", "zzz", _place(0, 1, 2), _place(0, "a", "b", "c"), _place(0, [], "b", 3), _place(0, 2**70, "b", 3)]
)
@pytest.mark.parametrize("address", ["/?after=", "/chat/adapters/?after="])
def test_what_is_no_place_in_a_list_is_not_found(client: Client, address: str, after: str) -> None:
    assert client.get(f"{address}{after}").status_code == 404


@pytest.mark.parametrize("address", ["/?after=", "/chat/adapters/?after=", "/leaderboard/?after="])
@pytest.mark.parametrize("value", [10**399, -(10**399), float("nan")], ids=["long", "below", "none"])
def test_a_number_that_no_database_has_is_no_place(client: Client, address: str, value: float) -> None:
    for length in (2, 3, 4):
        assert client.get(f"{address}{_place(value, *range(1, length))}").status_code == 404


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_the_database_cannot_hold_is_no_place(client: Client, time: str) -> None:
    found = client.get(f"/?sort=newest&after={_place(0, time, 'a', 1)}")
    assert found.status_code == (404 if connection.vendor == "sqlite" else 200)  # the other one holds more


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("ÉLAN", ["elan"]),
        ("élan vital", ["elan"]),
        ("e\u0301lan", ["elan"]),
        ("Elan", ["elan"]),
        ("ﬁgs", ["odd"]),
        ("istanbul", ["odd"]),
        ("news_head", ["heads"]),
        ("adlin", ["heads"]),
        ("HEADLINES tldr", ["heads"]),
        ("100%", ["odd"]),
        ("%", ["odd"]),
        (r"back\slash", ["odd"]),
        ("mistral", ["heads"]),
        ("zebra", []),
        ("elan zebra", []),
    ],
)
def test_words_find_the_same_on_every_database(client: Client, publish: Publish, words: str, found: list[str]) -> None:
    publish("elan", "a")
    Adapter.objects.filter(slug="elan").update(name="Élan vital", summary="Lively words")
    publish("heads", "b", base="Mistral-7B-v0.1")
    Adapter.objects.filter(slug="heads").update(name="News headlines", dataset={"name": "tldr_news"})
    publish("odd", "c")
    Adapter.objects.filter(slug="odd").update(summary="100% of back\\slash, figs of \u0130stanbul")
    assert slugs(client.get("/", {"q": words}).content.decode()) == found


def test_lists_hear_of_every_change_of_an_adapter_and_of_its_version(publish: Publish) -> None:
    version = publish("sums", score={"base": 0.1, "tuned": 0.5})
    row = ListedAdapter.objects.get()
    assert (row.name, round(row.gain), row.has_examples) == ("sums", 40, False)
    version.mend("{text}", [{"name": "text"}], [{"inputs": {"text": "1"}}])
    AdapterVersion.objects.filter(pk=version.pk).update(score={"base": 0.1, "tuned": 0.7})
    version.adapter.name = "Adds"
    version.adapter.save()
    row.refresh_from_db()
    assert (row.name, round(row.gain), row.has_examples) == ("adds", 60, True)
    version.refresh_from_db()
    version.retire()
    assert not ListedAdapter.objects.exists()


def test_what_an_older_version_published_and_withdrew_comes_into_the_lists_and_goes(publish: Publish) -> None:
    for slug, digest in (("gone", "a"), ("missed", "b"), ("kept", "c")):
        publish(slug, digest)
    newer = publish("newer", "d", score={"base": 0.1, "tuned": 0.2})
    ListedAdapter.objects.filter(adapter__slug="missed").delete()
    QuerySet(Adapter).filter(slug="gone").update(published=None)  # as who knows nothing of lists writes
    later = {"published_at": timezone.now(), "score": {"base": 0.1, "tuned": 0.9}}
    QuerySet(AdapterVersion).filter(pk=newer.pk).update(**later)
    complete_lists()
    gains = dict(ListedAdapter.objects.values_list("adapter__slug", "gain"))
    assert {slug: round(gain) for slug, gain in gains.items()} == {"missed": -101, "kept": -101, "newer": 80}
    with CaptureQueriesContext(connection) as asked:
        complete_lists()
    assert len(asked) == 1


def test_a_column_is_chosen_for_among_windows_with_the_versions_that_are_not_shown(
    client: Client, admin_client: Client, publish: Publish
) -> None:
    crowd.fill(100)
    publish("crowd-00000", "f", status="ready", publish_when_ready=False)
    address = "/chat/adapters/?columns=crowd-00003,base&position=1&q=crowd-0000"
    everybody, staff = html(client, address), html(admin_client, address)
    assert 'href="/compare/?columns=crowd-00003,crowd-00007"' in everybody
    assert "crowd-00000@" not in everybody
    assert 'href="/compare/?columns=crowd-00003,crowd-00000@ffffffffffff"' in staff
    first = html(client, "/chat/adapters/?columns=crowd-00003,base&position=1")
    assert "columns=crowd-00003%2Cbase&position=1&after=" in following(first)
    assert "adapter=auto" not in first
