"""compose.yaml as a file: what the specification allows, complete in each profile, and of commands that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from tests.deploy.commands import missing
from tests.test_docs import documented

REPO = Path(__file__).parents[2]
TEXT = (REPO / "compose.yaml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
PROFILES = {profile for service in SERVICES.values() for profile in service.get("profiles", ())}
SETTINGS = (REPO / "docs" / "settings.md").read_text()
OPERATIONS = (REPO / "docs" / "operations.md").read_text()


def given(text: str) -> str:
    """What Compose makes of it where nobody gives more than what must be given."""
    return re.sub(r"\$\{\w+:\?[^}]*\}", "given", re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))


def refusal(compose: dict[str, Any]) -> str:
    """Why it is no file of Compose; empty if it is one."""
    try:
        PyCompose.from_json(json.dumps(compose)).validate()
    except ValueError as error:
        return str(error)
    return ""


def test_it_is_as_the_specification_has_it() -> None:
    assert refusal(yaml.safe_load(given(TEXT))) == ""


@pytest.mark.parametrize(
    ("service", "key", "value", "told"),
    [
        ("web", "comand", "x", "extension key `comand`"),
        ("web", "restart", "sometimes", "unknown variant `sometimes`"),
        ("proxy", "ports", ["http:80"], "error parsing port"),
        ("worker", "depends_on", {"migrate": {"condition": "done"}}, "unknown variant `done`"),
    ],
)
def test_what_the_specification_does_not_have_is_refused(service: str, key: str, value: object, told: str) -> None:
    compose = yaml.safe_load(given(TEXT))
    compose["services"][service][key] = value
    assert told in refusal(compose)


@pytest.mark.parametrize("profiles", [set(), *({profile} for profile in sorted(PROFILES)), PROFILES])
def test_whatever_a_service_waits_for_is_there_in_its_profiles(profiles: set[str]) -> None:
    there = {
        name for name, service in SERVICES.items() if not service.get("profiles") or profiles & {*service["profiles"]}
    }
    assert {"web", "recorder", "celery", "migrate", "postgres", "redis"} <= there
    for name in there:
        assert {*SERVICES[name].get("depends_on", ())} <= there, name


def test_the_profiles_are_told_at_its_beginning() -> None:
    head = TEXT[: TEXT.index("x-app:")]
    assert {"cluster", "cpu", "gpu", "proxy"} == PROFILES
    assert [profile for profile in PROFILES if f"`{profile}`" not in head] == []


def test_every_volume_and_network_is_declared() -> None:
    compose = yaml.safe_load(TEXT)
    mounted = {str(volume).partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert {name for name in mounted if re.fullmatch(r"\w+", name)} == set(compose["volumes"])


def test_every_variable_is_documented() -> None:
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", TEXT))
    told = documented() | {
        name for row in re.findall(r"^\| (`.+?) \|", OPERATIONS, re.MULTILINE) for name in words(row)
    }
    assert asked - told == set()


def test_what_opens_the_stores_reaches_whoever_reads_them_and_is_empty_nowhere() -> None:
    (told,) = re.findall(r"^Credentials are read from the environment.*?\n\n", SETTINGS, re.MULTILINE | re.DOTALL)
    credentials = set(re.findall(r"`((?:AWS|GOOGLE|AZURE)_\w+)`", told))
    assert {"AWS_SECRET_ACCESS_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_ACCOUNT_KEY"} <= credentials
    ours = [service for service in SERVICES.values() if service.get("image") == "loraland"]
    assert len(ours) > 5
    for service in ours:
        assert "ADAPTER_CACHE_MB" in service["environment"]
        # Compose gives on a name without a value where it is set; an empty key would be taken for one.
        assert {name: service["environment"].get(name, "") for name in credentials} == dict.fromkeys(credentials)


def test_a_head_that_starts_again_is_told_the_plan() -> None:
    head = SERVICES["ray"]
    assert head["restart"] == "unless-stopped"
    assert re.search(r"until python -m inference.cluster .*--detach; .*& exec ray start --head", head["command"][2])


def words(row: str) -> list[str]:
    return re.findall(r"`([A-Z_]+)`", row)


def test_every_service_that_stays_up_has_a_health_check() -> None:
    for name, service in SERVICES.items():
        assert service["restart"] in ("no", "on-failure") or "healthcheck" in service, name


def test_every_command_and_health_check_calls_what_exists() -> None:
    called = [service["command"] for service in SERVICES.values() if "command" in service]
    called += [service["healthcheck"]["test"][1:] for service in SERVICES.values() if "healthcheck" in service]
    assert [words for words in called if missing(words)] == []


def test_the_worker_reserves_a_gpu() -> None:
    reservations = SERVICES["worker"]["deploy"]["resources"]["reservations"]
    assert reservations["devices"][0]["capabilities"] == ["gpu"]
    assert "deploy" not in SERVICES["worker-cpu"]
