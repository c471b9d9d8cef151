"""Threads that speak with the database, each on a connection that outlives the calls."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from django.db import close_old_connections, connection


class Lane(ThreadPoolExecutor):
    """A thread that closes its connection before it goes on where that has broken; the next question opens another."""

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        return super().submit(_well_connected, call, *arguments, **named)


def _well_connected(call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
    close_old_connections()
    return call(*arguments, **named)


def keep_connection() -> None:
    """Have this thread's connection outlive the calls; those of PostgreSQL go back to their pool."""
    if connection.vendor == "sqlite":
        connection.settings_dict = {**connection.settings_dict, "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": False}
