"""The processes of a base's other stages: started beside this one, or met at an address if they run elsewhere."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch.distributed as dist

from inference.config import EngineConfig
from inference.decoders.pipeline.chain import Chain, StageLost, join, own_address

LOOPBACK: Final = "127.0.0.1"
GRACE_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 0.05
_STORE: Final = "store"

log = logging.getLogger(__name__)


class Processes:
    """Those of stages 1 to `config.stages` - 1. With a `stage_address` none is started here, whoever comes is taken."""

    def __init__(self, config: EngineConfig) -> None:
        self._config, self._count = config, config.stages
        self._home = Path(tempfile.mkdtemp(prefix="stages-"))
        ranks = () if config.stage_address else range(1, self._count)
        self._children = [self._start(rank) for rank in ranks]

    def meet(self) -> Chain:
        """The chain, once all are there. Raises `StageLost` if one that was started here has ended."""
        address = self._config.stage_address
        host, _, port = address.rpartition(":")
        if address:
            log.info("waiting for stages count=%d address=%s", self._count - 1, address)
        store = tcp_store(host, int(port), self._count, 0) if address else file_store(self._home, self._count)
        while not store.check([came(rank) for rank in range(1, self._count)]):
            self._check()
            time.sleep(LOOK_SECONDS)
        return join(store, 0, self._count, own_address(host, int(port)) if address else LOOPBACK)

    def forget_place(self) -> None:
        """Take away where they met: a worker may end without another word."""
        shutil.rmtree(self._home, ignore_errors=True)

    def end(self) -> None:
        """End those that were started here."""
        for child in self._children:
            assert child.stdin is not None
            with suppress(OSError):
                child.stdin.close()
        for child in self._children:
            try:
                child.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.forget_place()

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        """A process that ends with this one: its input is open as long as this one lives."""
        child = subprocess.Popen([sys.executable, "-m", "inference.decoders.pipeline", "-"], stdin=subprocess.PIPE)
        assert child.stdin is not None
        told = {"rank": rank, "home": str(self._home), "config": asdict(self._config)}
        child.stdin.write(json.dumps(told, default=str).encode() + b"\n")
        child.stdin.flush()
        return child

    def _check(self) -> None:
        for rank, child in enumerate(self._children, 1):
            if child.poll() is not None:
                raise StageLost(f"stage {rank + 1} of {self._count} has ended with code {child.returncode}")


def came(rank: int) -> str:
    """The key by which stage `rank` says that it is there."""
    return f"came/{rank}"


def file_store(home: Path, count: int) -> Any:
    """Where processes of one host meet without a port that others could knock at."""
    return dist.FileStore(str(home / _STORE), count)  # type: ignore[attr-defined]


def tcp_store(host: str, port: int, count: int, rank: int) -> Any:
    """Where those of several hosts meet: at the first one's."""
    return dist.TCPStore(host, port, count, is_master=not rank, wait_for_workers=False)  # type: ignore[attr-defined]


def config_of(told: dict[str, Any]) -> EngineConfig:
    """The config that `Processes` has told a child."""
    return EngineConfig(**{**told, "var_dir": Path(told["var_dir"])})
