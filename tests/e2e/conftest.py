"""The whole site as `make run` starts it, in a fresh VAR_DIR, and a real browser before it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from inference.decoders.native.build import missing_feature
from tests.patience import PATIENCE

REPO = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

PATIENCE_MS = 1000 * PATIENCE
"""How long a page may take: on a busy machine a click takes seconds, and that is no failure."""
ENDED = re.compile("done|length")
"""The state of an answer that came to an end; which of the two it was is up to the model."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in filter(is_here, items):
        item.add_marker(pytest.mark.e2e)
        item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1200))
    # Playwright keeps an event loop running in the main thread: no test with a loop of its own may come after.
    items.sort(key=is_here)


def is_here(item: pytest.Item) -> bool:
    return Path(__file__).parent in item.path.parents


@dataclass
class Site:
    """A running site: its address, its VAR_DIR and the environment that its commands need."""

    url: str
    var_dir: Path
    environment: dict[str, str]
    process: subprocess.Popen[str]

    def manage(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a management command beside the running site."""
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(command, cwd=REPO, env=self.environment, check=check, capture_output=True, text=True)

    def child(self, pattern: str) -> int:
        """The process id of the child whose command line holds `pattern`."""
        found = subprocess.run(
            ["pgrep", "-P", str(self.process.pid), "-f", pattern], capture_output=True, text=True, check=True
        )
        return int(found.stdout.split()[0])

    def wait_until_ready(self, seconds: float = 600) -> None:
        deadline = time.monotonic() + seconds
        while not self._is_ready():
            assert self.process.poll() is None, "the site ended before it was ready"
            assert time.monotonic() < deadline, "the site did not become ready"
            time.sleep(0.5)

    def _is_ready(self) -> bool:
        """Whether a worker serves and every shipped adapter is listed, which takes each a first answer."""
        try:
            with (
                urllib.request.urlopen(f"{self.url}/readyz", timeout=5),
                urllib.request.urlopen(self.url, timeout=5) as response,
            ):
                page = response.read().decode()
                return all(f"/adapters/{card.parent.name}/" in page for card in REPO.glob("adapters/*/card.toml"))
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="session")
def site(model_dir: Path) -> Iterator[Site]:
    """The site from an empty VAR_DIR but for the base model, ready to chat with every shipped adapter."""
    with running_site([model_dir]) as running:
        yield running


@contextmanager
def running_site(models: Sequence[Path], **variables: str) -> Iterator[Site]:
    """The site as `variables` have it, with `models` in its VAR_DIR, until the end of the block."""
    var_dir = Path(tempfile.mkdtemp(prefix="loraland-e2e-"))
    (var_dir / "models").mkdir()
    for model in models:
        (var_dir / "models" / model.name).symlink_to(model)
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}},
        "VAR_DIR": str(var_dir),
        "PORT": str(port),
        "DJANGO_ALLOW_ASYNC_UNSAFE": "",
        # Where torch decodes on a processor without bfloat16, that takes three times as long.
        "DTYPE": "float32" if missing_feature() else "bfloat16",
        # An answer must not be at its end before a reader's finger is.
        "MAX_NEW_TOKENS": "4096",
        "SPECULATION": "off",
        **variables,
    }
    process = subprocess.Popen([sys.executable, "-m", "loraland"], cwd=REPO, env=environment, text=True)
    running = Site(f"http://127.0.0.1:{port}", var_dir, environment, process)
    try:
        running.wait_until_ready()
        yield running
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
        for log in sorted((var_dir / "log").glob("*.log")):
            print(f"{log.name}:", log.read_text(errors="replace")[-4000:])
        shutil.rmtree(var_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """One visitor, with a browser session of their own."""
    context = browser.new_context(base_url=site.url, viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture(scope="session")
def owner(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """The admin, signed in once for all tests that leave the session as it is: that takes seconds."""
    context = browser.new_context(base_url=site.url, viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    enter(context.new_page(), site, "/admin/")
    yield context
    context.close()


PASSWORD = "correct-horse-battery"


def enter(page: Page, site: Site, address: str, name: str = "owner") -> None:
    """Sign in as the admin called `name`, who is made where there is none, and go to `address`."""
    site.environment["DJANGO_SUPERUSER_PASSWORD"] = PASSWORD
    site.manage("createsuperuser", "--no-input", "--username", name, "--email", "o@example.org", check=False)
    page.goto(f"/admin/login/?next={address}")
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


def until(page: Page, expression: str) -> None:
    """Wait until `expression` holds. Playwright's own waiting evaluates strings, which our policy forbids."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"this never came true: {expression}"
        page.wait_for_timeout(50)


CUT_OFF = ("htmx:afterRequest", "htmx:sendError", "htmx:sendAbort")
"""What htmx tells of a request that ended with its page; an answer that is an error it tells otherwise."""
REFUSED = "Failed to load resource: net::ERR_CONNECTION_REFUSED"
"""What the browser tells of a request that found no server, which only a test that kills it forgives."""


@pytest.fixture
def page(context: BrowserContext, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page without errors in its console, but for a socket that found no server: that is the network's, not ours."""
    problems: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if is_problem(message) else None)
    yield page
    forgiven = {REFUSED} if request.node.get_closest_marker("kills_server") else set()
    assert [problem for problem in problems if problem not in forgiven] == []


def is_problem(message: ConsoleMessage) -> bool:
    return message.type == "error" and not message.text.startswith(("WebSocket connection to ", *CUT_OFF))
