"""Every way to start the site has the same edge."""

from __future__ import annotations

from pathlib import Path

import yaml
from pytest_django import Settings

from loraland.__main__ import celery_command, web_command

REPO = Path(__file__).parents[3]
EDGE = ("--no-proxy-headers", "--no-server-header")
VALUES = {
    "--http": "loraland.edge.http:Http",
    "--ws": "loraland.edge.socket:Socket",
    "--ws-max-size": "65536",
    "--ws-per-message-deflate": "false",
}


def test_make_run_and_compose_start_the_same_edge():
    command = web_command()
    assert set(EDGE) <= set(command)
    assert {name: command[command.index(name) + 1] for name in VALUES} == VALUES
    web = yaml.safe_load((REPO / "compose.yaml").read_text())["services"]["web"]
    assert web["command"] == ["python", "-m", "loraland", "web"]


def test_the_servers_of_the_site_log_from_the_level_that_is_set(settings: Settings) -> None:
    settings.LOG_LEVEL, settings.FRAMEWORKS_LOG_LEVEL = "debug", "info"
    assert web_command()[web_command().index("--log-level") + 1] == "info"
    assert celery_command()[celery_command().index("--loglevel") + 1] == "debug"


def test_compose_believes_its_own_network_and_listens_to_its_own_host():
    compose = yaml.safe_load((REPO / "compose.yaml").read_text())
    web, (network,) = compose["services"]["web"], compose["networks"]["default"]["ipam"]["config"]
    assert network["subnet"] in web["environment"]["TRUSTED_PROXIES"]
    assert all(port.startswith("${LISTEN:-127.0.0.1}:") for port in web["ports"])
