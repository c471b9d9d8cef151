"""`python -m loraland`: the whole site in the foreground, from an empty disk to ready to chat.

With names behind it, as in `python -m loraland web`, only these services are kept alive, for a host or a container
that has the others elsewhere; Redis, the database and the files must be there.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from loraland import bases, liveness
from loraland.bases import Base
from loraland.logs import LogFiles
from loraland.opening import PYTHON, CannotStart, Opening
from loraland.supervisor import Service, Supervisor
from loraland.terminal import Terminal
from loraland.watch import Watch

FREE_MB: Final = 1024
"""Room for the base model, its conversion and the database."""
BACKLOG: Final = 2048
"""How many connections wait to be accepted, as uvicorn has it."""
WEB_WAIT_SECONDS: Final = 5
"""How long the web process waits for a database at most: somebody waits for its answer, where a job has time."""


def main(arguments: Sequence[str] | None = None) -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraland.settings")
    names = read_names(arguments)
    try:
        if not names or "web" in names:
            check_port(settings.HOST, settings.PORT)
        if not names:
            check_disk(settings.VAR_DIR)
        return asyncio.run(serve(names))
    except (CannotStart, ImproperlyConfigured) as error:
        print(f"Cannot start: {error}", file=sys.stderr)
        return 1


def read_names(arguments: Sequence[str] | None) -> list[str]:
    parser = argparse.ArgumentParser(prog="python -m loraland", description="Starts the site and keeps it alive.")
    kinds = ", ".join(liveness.SERVICES)
    parser.add_argument("service", nargs="*", help=f"keep only these alive ({kinds}); without any: the whole site")
    names: list[str] = parser.parse_args(arguments).service
    if unknown := [name for name in names if name not in liveness.SERVICES]:
        parser.error(f"there is no service {', '.join(unknown)}; there are {kinds}")
    return names


def check_port(host: str, port: int) -> None:
    """Refuse to start on an address that cannot be listened on."""
    with socket.socket(family_of(host), socket.SOCK_STREAM) as probe:
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


async def serve(names: Sequence[str] = ()) -> int:
    """Keep the services of these `names` alive, which write where we do; without any open the whole site."""
    terminal = Terminal(sys.stdout)
    logs = LogFiles(None if names else settings.VAR_DIR / "log", terminal.say)
    supervisor = Supervisor(terminal.say, logs)
    for service in services(names) if names else ():
        supervisor.keep(service)
    opening = asyncio.Event().wait() if names else Opening(supervisor, terminal, logs).run(services())
    work = asyncio.gather(opening, logs.keep_small())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        pass  # by a signal
    finally:
        async with terminal.stage("stop", lambda: "all processes"):
            await supervisor.end()
    return 0


def services(names: Sequence[str] = ()) -> list[Service]:
    """The services of one machine in the order in which they start; only those of these kinds, if any are named.

    Those named keep the `WORKER_NAME` that they are given; those of the whole site are told apart by numbers, and where
    other hosts may have such too, on a Redis that is not this one's own, by this host's name.
    """
    given = settings.WORKER_NAME if names else ""
    known = "" if given or settings.REDIS_IS_EMBEDDED else f"{liveness.HOST}-"
    kinds = {
        "recorder": [signing("recorder", PYTHON, "manage.py", "record")],
        "worker": [worker(name, base, known) for base in bases.served() for name in names_of_workers(base, given)],
        "celery": [signing("celery", *celery_command())],
        "trainer": [trainer(given or "trainer", known)],
        "web": webs(),
    }
    return [service for kind, found in kinds.items() if not names or kind in names for service in found]


def signing(name: str, *command: str) -> Service:
    return Service(name, command, watch=Watch(partial(liveness.sign, name)))


def names_of_workers(base: Base, given: str) -> list[str]:
    """What the workers of `base` on this machine are called: those of another base than the default one by its key."""
    number, beside = settings.WORKERS[base.key], "" if base.is_default else f"-{base.key}"
    if given:
        return [f"{given}{beside}"] if number else []
    return [f"worker{beside}-{count}" for count in range(1, number + 1)]


def worker(name: str, base: Base, known: str = "") -> Service:
    """A worker that all hosts know by its `name` behind what is `known` of this one."""
    watch = Watch(partial(liveness.worker, known + name))
    environment = {"WORKER_NAME": known + name, "BASE_MODEL": base.model}
    return Service(name, (PYTHON, "-m", "inference"), environment, watch)


def trainer(name: str, known: str = "") -> Service:
    """The worker has the device's memory; what is read in fewer bits there is trained on whole."""
    environment = {"WORKER_NAME": known + name, "DEVICE": settings.TRAINER_DEVICE}
    environment |= {"QUANTIZATION": "none", "ADAPTER_QUANTIZATION": "none"}
    watch = Watch(partial(liveness.trainer, known + name))
    return Service(name, (PYTHON, "-m", "inference.training", "--serve"), environment, watch)


def webs() -> list[Service]:
    """One web process, or several that accept from one socket, so that whoever is free takes the next connection.

    Each of several has a port of its own beside it, at which it is watched.
    """
    if settings.WEB_PROCESSES == 1:
        return [web("web")]
    shared = listening(settings.HOST, settings.PORT)
    numbers = range(1, settings.WEB_PROCESSES + 1)
    return [web(f"web-{number}", (shared, listening("127.0.0.1", 0))) for number in numbers]


def web(name: str, sockets: tuple[socket.socket, ...] = ()) -> Service:
    """A web process on the last of `sockets`, which is its own, and on the others, or on `HOST` and `PORT`."""
    environment = {"DATABASE_WAIT_SECONDS": str(min(settings.DATABASE_WAIT_SECONDS, WEB_WAIT_SECONDS))}
    environment |= {"HOST": settings.HOST, "PORT": str(settings.PORT)}
    own = "{}:{}".format(*sockets[-1].getsockname()) if sockets else ""
    watch = Watch(partial(liveness.web, own), every=5.0, patience=4)
    command = (PYTHON, "-m", "loraland.web", *(str(each.fileno()) for each in sockets))
    return Service(name, command, environment, watch, sockets)


def listening(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port), family=family_of(host), backlog=BACKLOG)


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def celery_command() -> tuple[str, ...]:
    return (
        *(PYTHON, "-m", "celery", "--quiet", "-A", "loraland", "worker", "--loglevel", settings.LOG_LEVEL),
        *("--without-gossip", "--without-mingle", "--without-heartbeat", "--beat"),
    )


if __name__ == "__main__":
    sys.exit(main())
