"""What every call of /v1 passes: browsers' questions, ids of answers, and one shape of what is refused."""

from __future__ import annotations

import pytest

PAGE = "http://localhost:3000"
QUESTION = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
QUESTION |= {"Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang"}
CHATS = "/v1/chat/completions"


@pytest.mark.parametrize("origin", [PAGE, "*"])
async def test_a_page_of_an_origin_that_is_named_may_ask(http, settings, origin):
    settings.CORS_ORIGINS = frozenset({origin})
    answer = await http.options(CHATS, headers=QUESTION)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == origin
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == QUESTION["Access-Control-Request-Headers"]
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(("path", "status"), [("models", 200), ("models/none", 404), ("nothing", 404)])
async def test_its_answers_and_errors_can_be_read(http, settings, path, status):
    settings.CORS_ORIGINS = frozenset({PAGE})
    answer = await http.get(f"/v1/{path}", headers={"Origin": PAGE})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, PAGE)
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    assert "Origin" in answer.headers["vary"]


async def test_without_a_key_it_is_told_so_readably(http, settings):
    settings.CORS_ORIGINS = frozenset({PAGE})
    answer = await http.get("/v1/models", headers={"Origin": PAGE, "Authorization": ""})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, PAGE)


@pytest.mark.parametrize("origin", ["", "https://elsewhere.example"])
async def test_a_page_of_another_origin_is_refused_in_the_one_shape(http, settings, origin):
    settings.CORS_ORIGINS = frozenset({origin} - {""})
    answer = await http.options(CHATS, headers=QUESTION)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in answer.headers
    assert "access-control-allow-origin" not in (await http.get("/v1/models", headers={"Origin": PAGE})).headers


async def test_a_page_of_the_site_itself_allows_no_origin(http, settings):
    settings.CORS_ORIGINS = frozenset({"*"})
    assert "access-control-allow-origin" not in (await http.get("/readyz", headers={"Origin": PAGE})).headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHATS, 405),
        ("OPTIONS", CHATS, 405),
        ("PUT", "/v1/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1", 404),
        ("GET", "/v1/", 404),
        ("POST", "/v1/nothing", 404),
    ],
)
async def test_what_no_address_takes_is_told_in_the_one_shape(http, method, path, status):
    answer = await http.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert ("allow" in answer.headers) == (status == 405)


async def test_an_answer_bears_its_id_and_the_callers_own(http, answering):
    answering()
    asked = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
    for stream in (False, True):
        answer = await http.post(CHATS, json=asked | {"stream": stream}, headers={"X-Request-Id": "mine-1"})
        assert answer.headers["x-request-id"] in answer.text
        assert answer.headers["x-client-request-id"] == "mine-1"


async def test_an_error_bears_an_id(http):
    first, second = [(await http.get("/v1/models/none")).headers["x-request-id"] for _ in range(2)]
    assert first != second


async def test_anthropics_clients_find_an_id_under_their_own_name(http):
    listed = await http.get("/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert listed.headers["request-id"] == listed.headers["x-request-id"]
    assert "request-id" not in (await http.get("/v1/models")).headers
