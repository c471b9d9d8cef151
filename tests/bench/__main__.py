"""`make bench`: the workloads and scenarios on a live site, on the engine itself, and on its peers.

python -m tests.bench --runs 3 --json var/bench.json --peers var/peers
python -m tests.bench --only w3,w4,fairness --runs 1
python -m tests.bench --resume …        goes on where an interrupted run stopped
python -m tests.bench --show --markdown prints the tables of a finished one
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.bench import report
from tests.bench.bench import Bench
from tests.bench.peers import PEERS
from tests.bench.record import Record
from tests.bench.site import REPO
from tests.bench.stages import STAGES
from tests.bench.workloads import WORKLOADS

SYSTEMS = ("site", "engine", "bits", "avx2", "vllm", "llama", "peft")
SCENARIOS = ("startup", "busy", "fairness", "crowd", "cold", "prefix", "speculation", "overhead", "training", "parts")


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # ends the servers on the way out
    record = Record(options.json, options.resume or options.show)
    if not options.show:
        with tempfile.TemporaryDirectory(prefix="loraland-bench-", dir=options.dir) as directory:
            bench = Bench(
                record=record,
                directory=Path(directory),
                models=options.models,
                only=options.only,
                systems=options.systems,
                runs=options.runs,
                peers=options.peers,
                data=options.data,
            )
            for stage in STAGES:
                stage(bench)
    medians = record.medians()
    print("\n" + (report.markdown(record.about, medians) if options.markdown else report.text(medians)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_names, default=(*WORKLOADS, *SCENARIOS), help="comma-separated; default all")
    parser.add_argument("--systems", type=_systems, default=SYSTEMS, help=f"which of {', '.join(SYSTEMS)}; default all")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, default=REPO / "var" / "bench.json")
    parser.add_argument(
        "--peers", type=Path, default=PEERS, help="where `python -m tests.bench.peers` has put vLLM and llama.cpp"
    )
    parser.add_argument("--data", type=Path, help="a directory of <adapter>/test.jsonl for the trained adapters")
    parser.add_argument("--models", type=Path, default=REPO / "var" / "models", help="where fetched base models lie")
    parser.add_argument("--dir", type=Path, help="where to put the temporary site, about 3 GB with 2,000 adapters")
    parser.add_argument(
        "--resume", action="store_true", help="keep the runs that the file holds and add what is missing"
    )
    parser.add_argument("--show", action="store_true", help="measure nothing, print the tables of the file")
    parser.add_argument("--markdown", action="store_true", help="print the tables for docs/benchmarks.md")
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    return _chosen("--only", text, (*WORKLOADS, *SCENARIOS))


def _systems(text: str) -> tuple[str, ...]:
    return _chosen("--systems", text, SYSTEMS)


def _chosen(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if unknown := sorted(set(names) - set(known)):
        sys.exit(f"{option} knows {', '.join(known)}, not {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    main()
