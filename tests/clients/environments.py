"""Where clients live: an environment for each set of packages, made once under `var/clients`."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from tests.clients.clients import Client

REPO = Path(__file__).parents[2]
HOME = REPO / "var" / "clients"
CONSTRAINTS = Path(__file__).parent / "constraints.txt"
"""What the tests' environment holds; the others take what is newest."""


class NotInstalled(Exception):
    """An environment that could not be made: there is no network, or no package for this Python."""


def environment_of(client: Client) -> Path:
    """The folder of the client's environment, complete. Raises `NotInstalled` with the installer's last words."""
    folder = HOME / client.environment
    stamp = folder / f"complete-{_content(client)}"
    if not stamp.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (_install_node if client.language == "node" else _install_python)(client, folder)
        stamp.touch()
    return folder


def version_of(client: Client) -> str:
    """The version of the package that the client is named after."""
    folder = environment_of(client)
    if client.language == "node":
        package = json.loads((folder / "node_modules" / client.version_of / "package.json").read_text("utf-8"))
        return str(package["version"])
    ask = f"from importlib.metadata import version; print(version({client.version_of!r}))"
    return subprocess.run([python_of(folder), "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


def python_of(folder: Path) -> str:
    return str(folder / "bin" / "python")


def _content(client: Client) -> str:
    held = CONSTRAINTS.read_text("utf-8") if client.environment == "core" else ""
    return hashlib.sha256(repr((client.packages, held)).encode()).hexdigest()[:12]


def _install_python(client: Client, folder: Path) -> None:
    held = ["-c", str(CONSTRAINTS)] if client.environment == "core" else []
    _run([sys.executable, "-m", "venv", str(folder)])
    _run([python_of(folder), "-m", "pip", "install", "-q", "--disable-pip-version-check", *held, *client.packages])


def _install_node(client: Client, folder: Path) -> None:
    (folder / "package.json").write_text('{"private": true}')
    _run(["npm", "install", "--silent", "--prefix", str(folder), *client.packages])


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NotInstalled(f"{command[0]} is not on this machine") from error
    if done.returncode:
        raise NotInstalled((done.stderr or done.stdout).strip()[-400:] or f"{command[0]} ended with {done.returncode}")
