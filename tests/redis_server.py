"""A real Redis for tests: its own process on a Unix socket, to be stopped, killed and started again."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import redis

from tests.patience import PATIENCE, patiently

SETTINGS = ("--port", "0", "--appendonly", "yes", "--appendfsync", "everysec", "--save", "")
"""What the embedded server is started with, see `loraland`."""


class RedisServer:
    """`executable` serving `url`, with persistence in a directory of its own until `close`."""

    def __init__(self, executable: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="redis-"))
        self._socket = self.directory / "socket"
        self._executable = executable
        self.url = f"unix://{self._socket}"
        self.start()

    def start(self) -> None:
        command = [self._executable, "--unixsocket", str(self._socket), "--dir", str(self.directory), *SETTINGS]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        client = redis.Redis.from_url(self.url)
        for _ in patiently():
            try:
                client.ping()
                break
            except redis.exceptions.ConnectionError:
                time.sleep(0.02)
        else:
            raise RuntimeError(f"{self._executable} does not answer")
        client.close()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)
        self._process.wait(PATIENCE)

    def close(self) -> None:
        if self._process.poll() is None:
            self.stop(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)
