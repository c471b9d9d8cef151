"""`manage.py health SERVICE`: exit code 0 if that service of this host does its work, else 1 and a sentence."""

from __future__ import annotations

import asyncio
import socket
import urllib.error
import urllib.request
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any, Final

import redis
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from redis.exceptions import RedisError

from inference import training_queue
from inference.protocol import Heartbeat
from inference.streams import WireError
from loraland import inference_client
from loraland.celery import app
from loraland.generations.recorder import alive_key

SECONDS = 5


class Command(BaseCommand):
    help = "Tells whether a service works: for health checks of containers."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("service", choices=list(CHECKS))
        parser.add_argument(
            "--name", default="", help="which one; by default any worker or trainer, this host's recorder"
        )

    def handle(self, *args: Any, service: str, name: str, **options: Any) -> None:
        problem = CHECKS[service](name)
        if problem:
            raise CommandError(f"{service}: {problem}")


def web(name: str) -> str:
    """Ask /healthz as the proxy in front would."""
    host = next((host for host in settings.ALLOWED_HOSTS if host != "*"), "localhost").lstrip(".")
    headers = {"Host": host, "X-Forwarded-Proto": "https" if settings.HTTPS else "http"}
    request = urllib.request.Request(f"http://127.0.0.1:{settings.PORT}/healthz", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS):
            return ""
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        return f"port {settings.PORT} does not answer ({error})"


def worker(name: str) -> str:
    """Look for the heartbeat of a worker that has loaded the base model."""
    try:
        heartbeats = asyncio.run(_heartbeats())
    except WireError as error:
        return str(error)
    is_ready = any(each.ready and name in {"", each.worker} for each in heartbeats)
    return "" if is_ready else f"{name or 'none'} is not ready among {len(heartbeats)} alive"


def celery(name: str) -> str:
    """Ping the Celery worker of this host."""
    try:
        replies = app.control.ping(destination=[f"celery@{socket.gethostname()}"], timeout=SECONDS)
    except (RedisError, OSError) as error:
        return f"the broker does not answer ({error})"
    return "" if replies else f"celery@{socket.gethostname()} does not answer"


def recorder(name: str) -> str:
    """Look for the sign that a recorder leaves while it can read what has ended."""
    try:
        alive = asyncio.run(_sign_of_life(name or socket.gethostname()))
    except RedisError as error:
        return f"Redis does not answer ({error})"
    return "" if alive else f"{name or socket.gethostname()} has not read the wire lately"


def trainer(name: str) -> str:
    """Look for the sign of life of a training server."""
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=SECONDS) as client:
            alive = training_queue.servers(client)
    except RedisError as error:
        return f"Redis does not answer ({error})"
    return "" if (name in alive if name else alive) else f"{name or 'none'} is not among the {len(alive)} alive"


CHECKS: Final[dict[str, Callable[[str], str]]] = {
    "web": web,
    "worker": worker,
    "celery": celery,
    "recorder": recorder,
    "trainer": trainer,
}


async def _heartbeats() -> list[Heartbeat]:
    try:
        return await inference_client.live_workers()
    finally:
        await inference_client.close()


async def _sign_of_life(recorder: str) -> bool:
    try:
        return bool(await inference_client.redis().exists(alive_key(recorder)))
    finally:
        await inference_client.close()
