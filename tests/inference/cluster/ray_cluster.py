"""A Ray cluster of several nodes on this machine, on the loopback alone, that leaves nothing behind."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # By this Ray takes 127.0.0.1 for the address of its nodes, and listens nowhere else.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_num_prestart_python_workers": "0",
    "RAY_prestart_worker_first_driver": "0",
}
STORE = 80 * 2**20


class LocalCluster:
    """Nodes of `cpus` each, the first of which is the head and is never lost."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.address: str = cluster.address

    @property
    def others(self) -> list[Any]:
        """The nodes beside the head."""
        return list(self._cluster.worker_nodes)

    def processes(self, title: str) -> list[int]:
        """Those that Ray calls so, of any cluster on this machine."""
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if title in _read(path)]

    def lose(self, node: Any, *pids: int) -> None:
        """As when its power goes: the node and the processes with these `pids` on it end without a word."""
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)


@contextmanager
def local_cluster(*cpus: int) -> Iterator[LocalCluster]:
    """A cluster with a node for each of `cpus`."""
    os.environ.update(QUIET)
    import ray
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    # Whoever has imported Ray before has read the variable already.
    ray_constants.ENABLE_RAY_CLUSTER = False

    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        head = {
            "num_cpus": cpus[0],
            "object_store_memory": STORE,
            "include_dashboard": False,
            "node_ip_address": "127.0.0.1",
            "temp_dir": folder,
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for count in cpus[1:]:
                cluster.add_node(num_cpus=count, object_store_memory=STORE, include_dashboard=False)
            yield LocalCluster(cluster)
        finally:
            ray.shutdown()
            cluster.shutdown()
            for pid in processes_of(folder):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def processes_of(folder: str) -> list[int]:
    """Who still runs of the cluster that keeps its files in `folder`."""
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if folder in _read(path)]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it has ended
        return ""
