"""Passwords are hashed few at a time: each hash takes memory, and whoever asks for one need not be known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Final

from django.contrib.auth.hashers import Argon2PasswordHasher

AT_ONCE: Final = 2
WAITING: Final = 62
"""How many hashes of one process are computed at once, and how many more wait, each in a thread."""
WAIT_SECONDS: Final = 5.0


class Busy(Exception):
    """Too many passwords are being checked; try again in a moment."""


class Turnstile:
    """Lets `at_once` through, has `waiting` more wait for their turn, and turns all others away."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._turns = BoundedSemaphore(at_once)
        self._places = BoundedSemaphore(at_once + waiting)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn. Raises `Busy` where too many wait, or when none came in `WAIT_SECONDS`."""
        if not self._places.acquire(blocking=False):
            raise Busy
        try:
            if not self._turns.acquire(timeout=WAIT_SECONDS):
                raise Busy
            try:
                yield
            finally:
                self._turns.release()
        finally:
            self._places.release()


turnstile: Final = Turnstile(AT_ONCE, WAITING)


class Argon2(Argon2PasswordHasher):
    """Argon2id in the 19 MiB that OWASP asks for at least, where Django takes 100; kept hashes keep their own.

    A hash with other parameters is made anew when its owner signs in.
    """

    time_cost = 2
    memory_cost = 19 * 1024
    parallelism = 1

    def encode(self, password: str, salt: str) -> str:
        with turnstile.turn():
            return str(super().encode(password, salt))

    def verify(self, password: str, encoded: str) -> bool:
        with turnstile.turn():
            return bool(super().verify(password, encoded))
