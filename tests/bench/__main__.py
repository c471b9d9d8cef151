"""`make bench`: measure a running site over its API, print a table and write JSON.

The site must be up (`make run`). A key is made for the run unless `API_KEY` holds one.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import httpx

from tests.bench.load import Result, Workload, run

REPO = Path(__file__).parents[2]


def main() -> None:
    options = _options()
    key = os.environ.get("API_KEY") or _new_key()
    adapters = _adapters(options.url, key)
    if not adapters:
        sys.exit("The site serves no adapter; import some first (see the README).")
    print(f"{len(adapters)} adapters at {options.url}; {options.runs} runs each, medians")
    print(f"{'workload':<28}{'tok/s':>8}{'first ms':>10}{'p95 ms':>9}{'next ms':>9}")
    results = [_measure(workload, options, key) for workload in _workloads(adapters, options.tokens)]
    machine = platform.processor() or platform.machine()
    report = {"machine": machine, "results": [dataclasses.asdict(result) for result in results]}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1))
    print(f"written to {options.json}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--url", default=f"http://127.0.0.1:{os.environ.get('PORT', '8000')}")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", type=Path, default=REPO / "var" / "bench.json")
    return parser.parse_args()


def _new_key() -> str:
    command = [sys.executable, "manage.py", "create_api_key", "bench"]
    return subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True).stdout.split()[-1]


def _adapters(url: str, key: str) -> tuple[str, ...]:
    response = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"})
    response.raise_for_status()
    return tuple(model["id"] for model in response.json()["data"] if model["id"] != "base" and "@" not in model["id"])


def _workloads(adapters: tuple[str, ...], tokens: int) -> list[Workload]:
    return [
        Workload("every adapter, 1 user", 1, 6, adapters, tokens),
        Workload("every adapter, 8 users", 8, 24, adapters, tokens),
        Workload("every adapter, 32 users", 32, 64, adapters, tokens),
        Workload("base only, 32 users", 32, 64, ("base",), tokens),
    ]


def _measure(workload: Workload, options: argparse.Namespace, key: str) -> Result:
    runs = [asyncio.run(run(workload, options.url, key, seed)) for seed in range(options.runs)]
    fields = [field.name for field in dataclasses.fields(Result) if field.name not in {"name", "requests"}]
    medians = {name: statistics.median(getattr(one, name) for one in runs) for name in fields}
    result = Result(name=workload.name, requests=workload.requests * options.runs, **medians)
    print(
        f"{result.name:<28}{result.tokens_per_second:>8.1f}{result.first_token_ms:>10.0f}"
        f"{result.first_token_p95_ms:>9.0f}{result.inter_token_ms:>9.1f}",
        flush=True,
    )
    return result


if __name__ == "__main__":
    main()
