"""`/v1/models`: whole and sent while it is read, or a page at a time, whatever comes and goes meanwhile."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async

from loraland.catalogue.models import Adapter
from tests.bench import crowd

pytestmark = pytest.mark.django_db(transaction=True)


fill = sync_to_async(crowd.fill)


async def names(http: httpx.AsyncClient, **parameters: Any) -> tuple[list[str], dict[str, Any]]:
    response = await http.get("/v1/models", params=parameters)
    assert response.status_code == 200, response.text
    told = response.json()
    return [entry["id"] for entry in told["data"]], told


async def test_pages_are_the_whole_list_without_gaps_or_doubles(http: httpx.AsyncClient) -> None:
    await fill(45)
    whole, told = await names(http)
    assert told["object"] == "list"
    assert not told["has_more"]
    assert whole[:2] == ["base", "auto"]
    assert len(whole) == len(set(whole)) > 45
    seen, after = list[str](), ""
    while True:
        page, told = await names(http, limit=7, after=after)
        assert (told["first_id"], told["last_id"]) == (page[0], page[-1])
        seen, after = seen + page, told["last_id"]
        if not told["has_more"]:
            break
    assert seen == whole


async def test_what_comes_and_goes_meanwhile_neither_repeats_nor_hides_an_entry(http: httpx.AsyncClient) -> None:
    await fill(20)
    first, told = await names(http, limit=11)
    gone = first[-1].partition("@")[0]
    await Adapter.objects.filter(slug=gone).aupdate(published=None)
    second, _ = await names(http, after=told["last_id"])
    assert not {*first} & {*second}
    assert {name.partition("@")[0] for name in first + second} - {"base", "auto"} == {
        f"crowd-{number:05d}" for number in range(20) if number % crowd.UNSERVED != 1
    }


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"limit": 0}, "limit is 0; give a number from 1 to 1000"),
        ({"limit": 1001}, "limit is 1001; give a number"),
        ({"limit": "many"}, "whole number"),
        ({"after": "a b"}, "after is 'a b', which this list cannot have"),
        ({"after": "base:nobody"}, "which this list cannot have"),
    ],
)
async def test_what_is_no_page_is_refused(http: httpx.AsyncClient, asked: dict[str, Any], sentence: str) -> None:
    response = await http.get("/v1/models", params=asked)
    assert response.status_code == 400
    assert sentence in response.json()["error"]["message"]


async def test_the_list_is_compressed_for_who_takes_that_and_has_no_body_for_its_head(
    http: httpx.AsyncClient,
) -> None:
    await fill(10)
    whole = (await http.get("/v1/models")).json()
    async with http.stream("GET", "/v1/models", headers={"Accept-Encoding": "gzip"}) as response:
        assert (response.headers["Content-Encoding"], response.headers["Vary"]) == ("gzip", "Accept-Encoding")
        body = b"".join([part async for part in response.aiter_raw()])
    assert json.loads(gzip.decompress(body)) == whole
    head = await http.head("/v1/models")
    assert (head.status_code, head.content) == (200, b"")
