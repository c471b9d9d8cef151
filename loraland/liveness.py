"""Whether a service of this host does its work: the web process answers, the others leave a sign of life in Redis.

The manager of processes and the health checks of containers look here.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Final, TypeVar

from django.conf import settings
from redis import Redis
from redis.exceptions import RedisError

from inference.server import queue as training_queue
from inference.wire.contract import WireError
from loraland import inference_client
from loraland.watch import SECONDS_A_LOOK, Silent, Unwell

SIGN_SECONDS: Final = 30
"""A sign of life counts for so long."""

HOST: Final = socket.gethostname()

Answer = TypeVar("Answer")


def sign_of(service: str, name: str = HOST) -> str:
    """The key in Redis under which `name` of the kind `service` shows that it works, for `SIGN_SECONDS`."""
    return f"{service}:{name}"


async def redis() -> None:
    """Look whether Redis is up and has loaded its data."""
    try:
        await asyncio.to_thread(_in_redis, Redis.ping)
    except Unwell as error:
        raise Silent(str(error)) from error


async def web(own: str = "") -> None:
    """Ask /healthz of whichever process accepts, or at the address that one has of its `own`.

    Whatever it answers shows that the process is alive.
    """
    status, _ = await asyncio.to_thread(ask, "/healthz", own)
    if status != HTTPStatus.OK:
        raise Unwell(f"port {settings.PORT} answers {status}")


async def worker(name: str = "") -> None:
    """Look for the heartbeat of a worker that has loaded its base model. It beats from its first second on."""
    try:
        async with asyncio.timeout(SECONDS_A_LOOK):
            alive = await inference_client.live_workers()
    except (WireError, TimeoutError) as error:
        raise Unwell(f"Redis does not answer ({error})") from error
    meant = [heartbeat for heartbeat in alive if name in {"", heartbeat.worker}]
    if not meant:
        raise Silent(f"{name or 'none'} is not among the {len(alive)} alive")
    if not any(heartbeat.ready for heartbeat in meant):
        raise Unwell(f"{name or 'none'} is not ready among {len(alive)} alive")


async def sign(service: str, name: str = "") -> None:
    """Look for the sign of Celery, whose main process turns and whose Beat lives, or of a recorder that can read."""
    key = sign_of(service, name or HOST)
    if not await asyncio.to_thread(_in_redis, lambda redis: redis.exists(key)):
        raise Silent(f"{name or HOST} has shown no sign of life for {SIGN_SECONDS} seconds")


async def trainer(name: str = "") -> None:
    """Look for the sign of life of a training server."""
    alive = await asyncio.to_thread(_in_redis, training_queue.servers)
    if not (name in alive if name else alive):
        raise Silent(f"{name or 'none'} is not among the {len(alive)} alive")


SERVICES: Final[dict[str, Callable[[str], Awaitable[None]]]] = {
    "web": web,
    "worker": worker,
    "celery": partial(sign, "celery"),
    "recorder": partial(sign, "recorder"),
    "trainer": trainer,
}
"""How to look whether one of each kind does its work; raises `loraland.watch.Unwell` with what is missing."""


def ask(path: str, own: str = "") -> tuple[int, bytes]:
    """What a web process of this host answers there, asked as the proxy in front would. Raises `Silent`."""
    host = next((host for host in settings.ALLOWED_HOSTS if host != "*"), "localhost").lstrip(".")
    headers = {"Host": host, "X-Forwarded-Proto": "https" if settings.HTTPS else "http"}
    connection = HTTPConnection(own or address().removeprefix("http://"), timeout=SECONDS_A_LOOK)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, HTTPException) as error:
        raise Silent(f"port {connection.port} does not answer ({error})") from error
    finally:
        connection.close()


def address() -> str:
    """Where to reach the web process of this host, whichever of its addresses it listens on."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.HOST, settings.HOST)
    return f"http://[{host}]:{settings.PORT}" if ":" in host else f"http://{host}:{settings.PORT}"


def _in_redis(question: Callable[[Redis], Answer]) -> Answer:
    try:
        with Redis.from_url(settings.REDIS_URL, socket_timeout=SECONDS_A_LOOK / 2) as redis:
            return question(redis)
    except RedisError as error:
        raise Unwell(f"Redis does not answer ({error})") from error
