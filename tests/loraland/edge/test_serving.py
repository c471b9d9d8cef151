"""Every way to start the site has the same edge."""

from __future__ import annotations

from pathlib import Path

import yaml
from pytest_django import Settings

from loraland.__main__ import celery_command, services
from loraland.web import config

REPO = Path(__file__).parents[3]


def test_make_run_and_compose_start_the_same_edge():
    serving, [service] = config(), services(["web"])
    assert (serving.http, serving.ws) == ("loraland.edge.http:Http", "loraland.edge.socket:Socket")
    assert (serving.proxy_headers, serving.server_header, serving.ws_per_message_deflate) == (False, False, False)
    assert serving.ws_max_size == 65536
    assert service.command[1:] == ("-m", "loraland.web")
    web = yaml.safe_load((REPO / "compose.yaml").read_text())["services"]["web"]
    assert web["command"] == ["python", "-m", "loraland", "web"]


def test_the_servers_of_the_site_log_from_the_level_that_is_set(settings: Settings) -> None:
    settings.LOG_LEVEL, settings.FRAMEWORKS_LOG_LEVEL = "debug", "info"
    assert config().log_level == "info"
    assert celery_command()[celery_command().index("--loglevel") + 1] == "debug"


def test_compose_believes_its_own_network_and_listens_to_its_own_host():
    compose = yaml.safe_load((REPO / "compose.yaml").read_text())
    web, (network,) = compose["services"]["web"], compose["networks"]["default"]["ipam"]["config"]
    assert network["subnet"] in web["environment"]["TRUSTED_PROXIES"]
    assert all(port.startswith("${LISTEN:-127.0.0.1}:") for port in web["ports"])
