"""Real clients, unmodified, call a real site; `docs/clients.md` tells of the many that these five stand for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from loraland.api.reference.examples import EXAMPLES, Example
from tests.bench.site import running
from tests.clients.clients import TESTED, Client
from tests.clients.environments import NotInstalled, environment_of
from tests.clients.land import open_land
from tests.clients.likelihoods import PAIRS, likelihoods
from tests.clients.proving import prove
from tests.patience import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def land(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address and a key of a site whose worker computes in float32, so that figures can be compared."""
    settings = {"DTYPE": "float32", "CORS_ORIGINS": "*"}
    with running(tmp_path_factory.mktemp("land"), model_dir.parent, settings) as site:
        yield open_land(site)


def installed(name: str) -> Client:
    try:
        environment_of(TESTED[name])
    except NotInstalled as error:
        pytest.skip(f"{name} cannot be installed here: {error}")
    return TESTED[name]


@pytest.mark.parametrize("name", list(TESTED))
def test_every_column_of_a_client_works(name: str, land: tuple[str, str]):
    broken = {proof.column: proof.note for proof in prove(installed(name), *land) if not proof.works}
    assert broken == {}


def test_the_harness_is_told_the_log_likelihoods_that_peft_computes(
    land: tuple[str, str], model_dir: Path, tmp_path: Path
):
    client, out = installed("lm-eval"), tmp_path / "scores.json"
    variables = {"LORALAND_PAIRS": json.dumps(PAIRS), "LORALAND_SCORES": str(out)}
    prove(client, *land, columns=["logprobs"], **variables)
    for model, scores in json.loads(out.read_text()).items():
        assert scores == pytest.approx(likelihoods(model_dir, model), abs=1e-3), model


def test_every_call_on_the_page_of_the_api_is_answered(land: tuple[str, str]):
    url, key = land
    refused = {example.title: told for example in EXAMPLES if (told := status_of(example, url, key)) != 200}
    assert refused == {}


def status_of(example: Example, url: str, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **example.headers}
    body = None if example.body is None else json.dumps(example.body).encode()
    try:
        with urlopen(Request(f"{url}{example.path}", body, headers), timeout=PATIENCE) as response:
            response.read()
            return int(response.status)
    except HTTPError as error:
        return error.code
