"""Locks of the database by name: they end with the transaction, so that nobody who dies keeps one."""

from __future__ import annotations

from django.db import connection


def hold(name: str) -> None:
    """Hold the lock of this name to the end of the transaction; in SQLite each transaction that writes is alone."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [name])
