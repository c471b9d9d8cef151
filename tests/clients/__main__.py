"""Take the table of docs/clients.md anew: `python -m tests.clients [--only NAME …] [--url URL --key KEY]`.

Without an address a site is started in a folder of its own. What is known of clients that are not asked now stays.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path

from tests.bench.site import running
from tests.clients.clients import CLIENTS, LEFT_OUT, Client
from tests.clients.environments import HOME, REPO, NotInstalled, version_of
from tests.clients.land import open_land
from tests.clients.proving import Proof, prove
from tests.clients.table import Row, page

FOUND = HOME / "found.json"
DOCUMENT = REPO / "docs" / "clients.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(CLIENTS), default=list(CLIENTS))
    parser.add_argument("--url")
    parser.add_argument("--key")
    options = parser.parse_args()
    with _site(options.url, options.key) as (url, key):
        found = _known()
        for name in options.only:
            found[name] = asdict(_row(CLIENTS[name], url, key)) | {"client": name}
            print(
                name,
                [
                    f"{'✓' if proof['works'] else '✗'} {proof['column']}: {proof['note']}"
                    for proof in found[name]["proofs"]
                ],
            )
            HOME.mkdir(parents=True, exist_ok=True)
            FOUND.write_text(json.dumps(found, ensure_ascii=False, indent=1))
    rows = [_read(found[name]) for name in CLIENTS if name in found]
    rows += [Row(Client(title), missing=reason) for title, reason in LEFT_OUT.items()]
    DOCUMENT.write_text(page(rows, "SmolLM2-135M-Instruct", date.today()), encoding="utf-8")


@contextmanager
def _site(url: str | None, key: str | None) -> Iterator[tuple[str, str]]:
    if url and key:
        yield url, key
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), REPO / "var" / "models", {"CORS_ORIGINS": "*"}) as site,
    ):
        yield open_land(site)


def _row(client: Client, url: str, key: str) -> Row:
    try:
        return Row(client, version_of(client), tuple(prove(client, url, key)))
    except (NotInstalled, RuntimeError) as error:
        return Row(client, missing=str(error))


def _known() -> dict[str, dict[str, object]]:
    return json.loads(FOUND.read_text("utf-8")) if FOUND.exists() else {}


def _read(told: dict[str, object]) -> Row:
    proofs = tuple(Proof(**proof) for proof in told["proofs"])
    return Row(CLIENTS[told["client"]], told["version"], proofs, told["missing"])


if __name__ == "__main__":
    main()
