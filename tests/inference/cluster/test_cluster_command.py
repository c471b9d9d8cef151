"""`python -m inference.cluster` where there is nothing to be had: a sentence and an exit code."""

from __future__ import annotations

import socket

import pytest
from redis import Redis

from inference.cluster.__main__ import main
from inference.cluster.words import told
from inference.wire.cluster import ALIVE, REPORT, ClusterReport, NodeReport, PoolChange, PoolReport, ReplicaReport


@pytest.fixture
def environment(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    with Redis.from_url(redis_url) as redis:
        redis.delete(REPORT, ALIVE)


@pytest.mark.usefixtures("environment")
def test_the_status_of_no_cluster_is_that_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--status"]) == 1
    assert "No cluster has told anything" in capsys.readouterr().out


def test_a_bad_setting_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("REPLICAS", "some")
    assert main([]) == 2
    assert "REPLICAS=some" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_an_address_at_which_nobody_listens_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    assert main(["--address", address]) == 1
    assert f"no Ray listens at {address}" in capsys.readouterr().err


def test_a_report_is_told_line_by_line() -> None:
    replicas = (ReplicaReport("tiny-1", "ready", "r", "n" * 40), ReplicaReport("tiny-2", "waiting", "r"))
    pool = PoolReport("tiny", 1, 4, 2, 1.0, 0.0, replicas, "one replica waits for a place")
    report = ClusterReport(
        0.0, (NodeReport("n" * 40, "10.0.0.1", 8, 1),), (pool,), (PoolChange(0, "tiny", 1, 2, "why"),)
    )
    lines = told(report, True).splitlines()
    assert lines[1:-1] == [
        "node nnnnnnnn 10.0.0.1: 8 CPU, 1 GPU",
        "tiny: 2 replicas wanted of 1 to 4, 1 ready, 1 waiting; one replica waits for a place",
        "  tiny-1 ready on nnnnnnnn",
        "  tiny-2 waiting without a place",
    ]
    assert lines[-1].endswith("tiny from 1 to 2 replicas: why")
    assert "no sign of life" in told(report, False)
