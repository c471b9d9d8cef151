"""Numbers, ids and keys that are none, or beyond every range, in every place to which strangers send one.

Whatever is sent is answered with less than a 500 or with a refusal in a sentence, and leaves no traceback.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from django.conf import settings as site_settings
from django.contrib.auth.models import User
from django.utils import timezone

from loraland.api.models import ApiKey
from loraland.asgi import application
from loraland.evals.models import Run
from tests.loraland.playground.page import Browser

pytestmark = pytest.mark.django_db(transaction=True)

NUMBERS = [
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "1e308", "5e-324", "-0.0", "1.5", "-1", "0"),
    *(
        str(2**53 + 1),
        str(2**63 - 1),
        str(2**63),
        str(-(2**63) - 1),
        str(2**64),
        "9" * 400,
        "9" * 5000,
        "1" + "0" * 4000,
    ),
]
TEXTS = [
    *NUMBERS,
    *(
        "",
        " 1",
        "1_0",
        "+1",
        "0x10",
        "٣",
        "²",
        "Ⅷ",
        "0" * 20 + "9" * 40,
        "true",
        "null",
        "../../etc",
        "%",
        "_",
        "\\",
        "'",
    ),
    *(f"{2**64}-0", "5", "1-", "-1-0", "1-0-0", "٣-0", "2026-13-45T99:99:99Z", "0000-00-00", str(uuid.uuid4())),
    *("x" * 60_000, "emotion@" + "f" * 60_000, "half \ud83d", "{0.__class__}", "+".join(["a"] * 200), "1e999*a", "٣*a"),
]
SHAPES = [
    "true",
    "null",
    "[]",
    "{}",
    "[[]]",
    "[NaN]",
    '{"a": 1e999}',
    '["\\ud800"]',
    '{"\\ud800": 1}',
    "[" * 400 + "]" * 400,
]
VALUES = [*NUMBERS, *map(json.dumps, TEXTS), *SHAPES]
"""As JSON writes them, or does not."""
FEW = [*NUMBERS, *SHAPES, *map(json.dumps, ("", "1", "NaN", "٣", "x" * 600, "half \ud83d"))]
HOLE = '"…"'


def with_odd_values(body: dict[str, Any], names: list[str], values: list[str] = VALUES) -> Iterator[str]:
    """`body` as JSON with every odd value in place of each of its `names`, which may be paths."""
    for name in names:
        first, _, rest = name.partition(".")
        inner = {**body.get(first, {}), rest: "…"} if rest else "…"
        text = json.dumps({**body, first: inner}, ensure_ascii=True).replace(json.dumps("…"), HOLE)
        for value in values:
            yield text.replace(HOLE, value)


@pytest.fixture
def quiet(caplog) -> Iterator[None]:
    """No fault of ours is logged."""
    caplog.set_level(logging.WARNING)
    yield
    faults = [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
    assert not faults, [(record.name, record.getMessage()[:300], record.exc_info) for record in faults[:3]]


@pytest_asyncio.fixture
async def http(site_wire, answering, publish):
    answering()
    await sync_to_async(publish)("emotion", template="Tweet: {text}", fields=[{"name": "text"}])
    secret = (await sync_to_async(ApiKey.objects.issue)("tests"))[1]
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    transport = httpx.ASGITransport(app=application)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
        yield client


# what programs send

COMMON = ["max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty"]
COMMON += ["presence_penalty", "frequency_penalty", "seed", "stop", "ignore_eos", "n", "user", "stream", "inputs.text"]


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "hi"}]},
            ["model", "messages", "store"],
        ),
        ("completions", {"prompt": "hi"}, ["prompt", "logprobs", "best_of", "echo", "stream_options"]),
        ("chat/completions", {"model": "emotion", "inputs": {"text": "x"}}, ["inputs", "max_completion_tokens"]),
    ],
)
@pytest.mark.slow
async def test_an_api_call_with_an_odd_value_is_answered_or_refused(http, quiet, settings, path, body, names):
    settings.MAX_NEW_TOKENS = 4
    body = {"model": "base"} | body
    for text in [*with_odd_values(body, names), *with_odd_values(body, COMMON, FEW)]:
        answer = await http.post(f"/v1/{path}", content=text)
        assert answer.status_code < 500, (text[:200], answer.text[:300])
        if answer.status_code != 200:
            assert answer.json()["error"]["message"], text[:200]


async def test_a_model_of_an_odd_name_is_not_there(http, quiet):
    for text in TEXTS:
        answer = await http.get(f"/v1/models/{quoted(text)}")
        assert answer.status_code in (200, 400, 404), text[:80]


# what pages send over their socket

ANSWER = "answer"
SAMPLING = [
    "sampling",
    "sampling.temperature",
    "sampling.top_p",
    "sampling.top_k",
    "sampling.max_tokens",
    "sampling.seed",
]


@pytest.mark.parametrize(
    ("message", "names"),
    [
        (
            {"type": "start", "request": "r", "conversation": None, "adapter": "", "text": "hi"},
            ["request", "conversation", "adapter", "text", "inputs", *SAMPLING],
        ),
        ({"type": "regenerate", "request": "r", "answer": ANSWER}, ["answer", "request"]),
        (
            {"type": "compare", "request": "r", "columns": ["base", "base"], "text": "hi"},
            ["columns", "text", "inputs"],
        ),
        ({"type": "retry", "request": "r", "comparison": str(uuid.uuid4()), "position": 0}, ["comparison", "position"]),
        ({"type": "resume", "answer": ANSWER, "after": "0-0"}, ["answer", "after"]),
        ({"type": "stop", "answer": ANSWER}, ["answer", "type"]),
    ],
)
@pytest.mark.slow
async def test_a_message_with_an_odd_value_is_obeyed_or_refused(site_wire, anna, quiet, settings, message, names):
    settings.MAX_RUNNING_PER_VISITOR = 2
    async with anna.page() as page:
        await page.say(type="start", request="first", conversation=None, adapter="", text="hi")
        own = (await page.hear("started"))["answer"]
        if message.get("answer") == ANSWER:
            message = {**message, "answer": own}
        for name in names:
            for text in with_odd_values(message, [name]):
                await page.say_text(text)
            await page.say(type="stop", answer=str(mark := uuid.uuid4()))
            while (told := await page.hear())["type"] != "refused" or told.get("answer") != str(mark):
                assert told.get("code") != "internal", (name, told)
                assert told["type"] != "interrupted", name
                assert told["type"] != "refused" or told["error"], name


# what is asked in addresses

PAGES = [
    ("/", ["q", "category", "sort", "after"]),
    ("/leaderboard/", ["q", "category", "verdict", "sort"]),
    ("/leaderboard.csv", ["q", "sort"]),
    ("/leaderboard.json", ["category", "verdict"]),
    ("/paper/", ["model", "task", "value"]),
    ("/chat/", ["adapter", "example"]),
    ("/chat/?adapter=emotion", ["example"]),
    ("/chat/list/", ["current"]),
    ("/chat/adapters/", ["q", "category", "after"]),
    ("/chat/adapters/?columns=emotion,base", ["position"]),
    ("/compare/", ["columns", "column", "example"]),
    ("/compare/?columns=emotion,base", ["example"]),
    ("{run}", ["page", "show"]),
]
ADMIN = [
    ("/admin/training/training/add/", ["data", "like", "preset"]),
    ("/admin/catalogue/adapter/", ["p", "q", "id__exact", "o", "e"]),
    ("/admin/evals/run/", ["p", "q", "id__exact", "task__exact"]),
]


@pytest_asyncio.fixture
async def run_page(publish) -> str:
    await sync_to_async(publish)("emotion", examples=[{"inputs": {"text": "x"}, "expected": "joy"}])
    run = await Run.objects.acreate(
        task="emotion", metric="accuracy", subject="base", base="b", n=1, finished=timezone.now()
    )
    return run.get_absolute_url()


@pytest.mark.slow
@pytest.mark.parametrize(("path", "names"), PAGES)
async def test_a_page_of_an_odd_address_is_shown_or_not_there(browser, run_page, quiet, path, names):
    where = path.format(run=run_page)
    for name in names:
        for text in TEXTS:
            address = f"{where}{'&' if '?' in where else '?'}{name}={quoted(text)}"
            assert (await browser.get(address)).status_code < 500, address[:200]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "names"), ADMIN)
async def test_a_page_of_the_admin_of_an_odd_address_is_shown_or_not_there(browser, run_page, quiet, path, names):
    staff = await Browser(
        await sync_to_async(User.objects.create_superuser)("root", password="correct-horse-9")
    ).visit()
    browser.cookies.set(site_settings.SESSION_COOKIE_NAME, staff.session_key)
    for name in names:
        for text in TEXTS:
            address = f"{path}?{name}={quoted(text)}"
            assert (await browser.get(address)).status_code < 500, address[:200]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/adapters/{}/", "/leaderboard/{}/", "/runs/{}/", "/chat/{}/", "/compare/{}/"])
async def test_a_page_of_an_odd_id_is_not_there(browser, quiet, path):
    for text in TEXTS:
        status = (await browser.get(path.format(quoted(text)))).status_code
        assert status < 500, (path, text[:80])


@pytest_asyncio.fixture
async def browser(site_wire, transactional_db):
    """A client of the whole application."""
    transport = httpx.ASGITransport(app=application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


@pytest_asyncio.fixture
async def anna(transactional_db) -> Browser:
    return await Browser().visit()


def quoted(text: str) -> str:
    return quote(text.encode(errors="replace"), safe="")
