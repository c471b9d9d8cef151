"""Chat templates filled in a process of their own, which is started when it is first needed and again when one of them
has ended it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from threading import Lock
from typing import Any, Final

from inference.model import template_process
from inference.model.template_process import SECONDS

WAIT: Final = 60.0
"""Seconds after which a process that has not used its own is taken for one that hangs."""


class TemplateRefused(ValueError):
    """A conversation that a template does not take; the text says why."""


class TemplateExceeded(TemplateRefused):
    """A template that takes more than it may, and would again."""


class TemplateRunner:
    """One process that fills templates. Safe to call from several threads, and in a process that was forked."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def start(self) -> None:
        """Start the process, if there is none, without waiting for it. One that cannot start now may do so later."""
        with self._lock, suppress(OSError):
            self._started()

    def render(self, source: str, values: dict[str, Any]) -> str:
        """The template `source` with `values`, which JSON can hold. Raises `TemplateRefused`."""
        line = json.dumps({"source": source, "values": values}).encode() + b"\n"
        with self._lock:
            try:
                answer = json.loads(self._told(line) or self._told(line) or self._give_up())
            except OSError as error:
                raise TemplateExceeded(f"the process that fills it cannot be started: {error}") from error
        if "error" in answer:
            raise TemplateRefused(answer["error"])
        return str(answer["text"])

    def _told(self, line: bytes) -> bytes:
        """What the process answers to `line`; nothing where it ended. Raises `TemplateExceeded`."""
        process = self._started()
        assert process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            answer = _read_line(process)
        except (BrokenPipeError, TimeoutError):
            answer = b""
        except BaseException:
            self._end(process)  # an answer that nobody has read must not be taken for the next one's
            raise
        if not answer and self._end(process) == -signal.SIGXCPU:
            raise TemplateExceeded(f"it takes more than {SECONDS} seconds of the processor")
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid():
            # By its file: the working directory may be another than this package's, and its neighbours are no names.
            command = [sys.executable, "-P", template_process.__file__]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._owner = os.getpid()
        return self._process

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        """End the process; how it ended, if it had already."""
        self._process = None
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        try:
            return process.wait(1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _give_up(self) -> bytes:
        raise TemplateExceeded("the process that fills it ended twice; see the worker's log")


def _read_line(process: subprocess.Popen[bytes]) -> bytes:
    """The line that the process writes, or nothing where it ends before. Raises TimeoutError."""
    assert process.stdout is not None
    told, deadline = bytearray(), time.monotonic() + WAIT
    while not told.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        piece = os.read(process.stdout.fileno(), 1 << 20)
        if not piece:
            return b""
        told += piece
    return bytes(told)


RUNNER: Final = TemplateRunner()
"""The one of this process."""
