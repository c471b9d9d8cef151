"""A report of the cluster as lines for a terminal."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from inference.wire.cluster import ClusterReport, PoolChange, PoolReport


def told(report: ClusterReport, is_alive: bool) -> str:
    """All of it, and whether its controller still lives."""
    at = datetime.fromtimestamp(report.time).strftime("%H:%M:%S")
    lines = [f"As of {at}." if is_alive else f"The controller has shown no sign of life; this is as of {at}."]
    for node in report.nodes:
        lines.append(f"node {node.id[:8]} {node.address}: {node.cpus:g} CPU, {node.gpus:g} GPU")
    for pool in report.pools:
        lines += [_told_pool(pool), *(f"  {each.name} {each.state} {_at(each.node)}" for each in pool.replicas)]
    if report.trainings:
        lines.append(f"{report.trainings} trainings")
    return "\n".join([*lines, *map(changed, report.changes)])


def changed(change: PoolChange) -> str:
    at = datetime.fromtimestamp(change.time).strftime("%H:%M:%S")
    return f"{at} {change.base} from {change.before} to {change.after} replicas: {change.reason}"


def _told_pool(pool: PoolReport) -> str:
    states = Counter(each.state for each in pool.replicas)
    are = ", ".join(f"{count} {state}" for state, count in states.items()) or "none yet"
    lacks = f"; {pool.lacks}" if pool.lacks else ""
    return f"{pool.base}: {pool.wanted} replicas wanted of {pool.low} to {pool.high}, {are}{lacks}"


def _at(node: str) -> str:
    return f"on {node[:8]}" if node else "without a place"
