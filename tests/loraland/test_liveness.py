"""What shows that a service does its work, and what its absence means."""

from __future__ import annotations

import asyncio
import http.server
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings
from redis import Redis

from inference.server import queue as training_queue
from inference.wire.protocol import Heartbeat
from loraland import inference_client, liveness
from loraland.watch import Silent, Unwell


class Handler(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def web(settings: Settings) -> Iterator[type[Handler]]:
    """A web server at the address of the site; the class says what it answers."""
    handler = type("Answering", (Handler,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        settings.HOST, settings.PORT = "0.0.0.0", server.server_port
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield handler
        server.shutdown()
        serving.join()


@pytest.fixture
async def redis(redis_url: str, settings: Settings) -> AsyncIterator[Redis]:
    settings.REDIS_URL = redis_url
    with Redis.from_url(redis_url) as client:
        yield client
        client.delete(*(liveness.sign_of(service) for service in ("celery", "recorder")))
    await inference_client.close()


@pytest.fixture
async def no_redis(settings: Settings, tmp_path: Path) -> AsyncIterator[None]:
    settings.REDIS_URL = f"unix://{tmp_path}/none.sock"
    yield
    await inference_client.close()


async def test_a_web_process_that_answers_is_alive(web: type[Handler]) -> None:
    await liveness.web()


def test_it_is_asked_as_the_proxy_in_front_would_and_through_no_other(
    web: type[Handler], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, str] = {}

    def do_GET(self: Handler) -> None:
        asked.update(self.headers)
        self.send_response(503)
        self.end_headers()
        self.wfile.write(b"not yet")

    monkeypatch.setattr(web, "do_GET", do_GET)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    settings.ALLOWED_HOSTS, settings.HTTPS = [".example.org"], True
    assert liveness.ask("/readyz") == (503, b"not yet")
    assert (asked["Host"], asked["X-Forwarded-Proto"]) == ("example.org", "https")


async def test_one_that_listens_on_all_addresses_of_ipv6_is_asked_at_its_own(settings: Settings) -> None:
    class Ipv6(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6

    try:
        server = Ipv6(("::1", 0), Handler)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server:
        settings.HOST, settings.PORT = "::", server.server_port
        assert liveness.address() == f"http://[::1]:{server.server_port}"
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        await liveness.web()
        server.shutdown()
        serving.join()


@pytest.mark.parametrize("status", [400, 500, 503])
async def test_one_that_refuses_is_unwell_and_not_silent(web: type[Handler], status: int) -> None:
    """It answers, so starting it again would end its streams and change nothing."""
    web.status = status
    with pytest.raises(Unwell, match=f"answers {status}") as caught:
        await liveness.web()
    assert not isinstance(caught.value, Silent)


async def test_one_that_does_not_listen_is_silent(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings.HOST, settings.PORT = "127.0.0.1", server.getsockname()[1]
    with pytest.raises(Silent, match=f"port {settings.PORT} does not answer"):
        await liveness.web()


async def test_one_that_takes_a_connection_and_never_answers_is_silent(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loraland.liveness.SECONDS_A_LOOK", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings.HOST, settings.PORT = "127.0.0.1", server.getsockname()[1]
        with pytest.raises(Silent, match="timed out"):
            await liveness.web()


@pytest.mark.parametrize("service", ["celery", "recorder"])
async def test_a_sign_of_this_host_is_looked_for(redis: Redis, service: str) -> None:
    with pytest.raises(Silent, match=f"{socket.gethostname()} has shown no sign of life for 30 seconds"):
        await liveness.SERVICES[service]("")
    redis.set(liveness.sign_of(service), 1, ex=60)
    await liveness.SERVICES[service]("")
    with pytest.raises(Silent, match="another"):
        await liveness.SERVICES[service]("another")


async def test_a_worker_is_known_by_its_heartbeat(redis: Redis, settings: Settings) -> None:
    with pytest.raises(Silent, match=r"box is not among the \d+ alive"):
        await liveness.worker("box")
    beat = Heartbeat(worker="box", base=settings.BASE_KEY, ready=False)
    await inference_client.wire().beat(beat, 60)
    with pytest.raises(Unwell, match="box is not ready") as caught:
        await liveness.worker("box")
    assert not isinstance(caught.value, Silent)
    await inference_client.wire().beat(Heartbeat(worker="box", base=settings.BASE_KEY, ready=True), 60)
    await liveness.worker("box")
    await inference_client.wire().depart(settings.BASE_KEY, "box")


async def test_a_training_server_is_known_by_its_beat(redis: Redis) -> None:
    with pytest.raises(Silent):
        await liveness.trainer("box")
    training_queue.beat(redis, "box", 60)
    await liveness.trainer("box")
    training_queue.depart(redis, "box")


@pytest.mark.parametrize("service", ["worker", "celery", "recorder", "trainer"])
async def test_without_redis_nobody_can_tell(no_redis: None, service: str) -> None:
    with pytest.raises(Unwell, match="Redis does not answer") as caught:
        await liveness.SERVICES[service]("")
    assert not isinstance(caught.value, Silent)


def test_the_command_says_what_is_missing(redis_url: str, settings: Settings) -> None:
    settings.REDIS_URL = redis_url
    with pytest.raises(CommandError, match="recorder: box has shown no sign of life"):
        call_command("health", "recorder", name="box")
    with Redis.from_url(redis_url) as redis:
        redis.set(liveness.sign_of("recorder", "box"), 1, ex=60)
    call_command("health", "recorder", name="box")


async def test_a_look_does_not_hold_up_the_others(web: type[Handler]) -> None:
    await asyncio.gather(*(liveness.web() for _ in range(8)))
