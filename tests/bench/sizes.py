"""`python -m tests.bench.sizes [NAME…]`: bases of real size, in few bits, beside llama.cpp on the same file.

Random weights of the shape of Qwen2.5-1.5B and Mistral-7B as GGUF files, written once into `--home`. Loading, memory,
one user of the base, and eight users of as many adapters; llama.cpp has one user and no adapter. Every system is a
process of its own, whose memory is what Linux says of it. Prompts and answers have 64 tokens, greedy.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from inference.training.scoring import put_into_store
from tests.bench import site
from tests.bench.offline import Process
from tests.bench.peers import PEERS, find_peer
from tests.bench.random_adapters import write
from tests.bench.record import machine
from tests.bench.workloads import NARROW, NEW_TOKENS, Prompts
from tests.inference import gguf_files

USERS: Final = 8
RUNS: Final = (("alone", 1, 3), ("8 adapters", USERS, 2 * USERS))
"""What it is called, how many users, and how many requests."""


@dataclass(frozen=True)
class Size:
    """A GGUF file of Llama's architecture: its sizes, and the type of its matrices."""

    name: str
    kind: str
    sizes: Mapping[str, int]


QWEN: Final = {"vocab": 151936, "hidden": 1536, "inner": 8960, "layers": 28, "heads": 12, "kv_heads": 2, "dim": 128}
MISTRAL: Final = {"vocab": 32000, "hidden": 4096, "inner": 14336, "layers": 32, "heads": 32, "kv_heads": 8, "dim": 128}
SIZES: Final = {
    size.name: size
    for size in (
        Size("qwen2.5-1.5b-q4_0", "Q4_0", QWEN),
        Size("qwen2.5-1.5b-q5_0", "Q5_0", QWEN),
        Size("qwen2.5-1.5b-q8_0", "Q8_0", QWEN),
        Size("mistral-7b-q4_0", "Q4_0", MISTRAL),
    )
}
SYSTEMS: Final = ("ours", "llama.cpp")


def main() -> None:
    options = _options()
    print(machine()["processor"], end="\n\n")
    print(
        "| base | system | file MB | ready s | peak MB | after MB | what | tok/s |\n|---|---|--:|--:|--:|--:|---|--:|"
    )
    for name in options.names or SIZES:
        path = options.home / f"{name}.gguf"
        if not path.is_file():
            write_random(path, SIZES[name])
        _report(name, path, options.peers)


def write_random(path: Path, size: Size) -> None:
    """Write random weights that leave the size of a row about as it was, so that nothing overflows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes, writer = gguf_files.SIZES | dict(size.sizes), GGUFWriter(path.with_suffix(".part"), "llama")
    gguf_files.add_fields(writer, gguf_files.fields_of(sizes) | {"llama.context_length": 2048})
    gguf_files.add_tokenizer(writer, sizes["vocab"], num_words=sizes["vocab"])
    for seed, (name, shape) in enumerate(gguf_files.shapes(sizes).items()):
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, np.float32))
        else:
            raw = _blocks(size.kind, *shape, seed)
            writer.add_tensor(name, raw, raw_shape=raw.shape, raw_dtype=GGMLQuantizationType[size.kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".part").rename(path)


def _blocks(kind: str, rows: int, width: int, seed: int) -> np.ndarray:
    """uint8 [rows, bytes]: in these types a block is a float16 scale and 32 levels."""
    _, num_bytes = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    raw = np.random.default_rng(seed).integers(0, 256, (rows, width // 32, num_bytes), dtype=np.uint8)
    deviation = {"Q4_0": 4.6, "Q5_0": 9.2, "Q8_0": 74.0}[kind]
    raw[..., :2] = np.array([width**-0.5 / deviation], np.float16).view(np.uint8)
    return raw.reshape(rows, -1)


def _report(name: str, path: Path, peers: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        engine = Served(Path(directory), path)
        for system in SYSTEMS:
            if system == "ours":
                _measure(name, system, path, engine.started(), engine)
            elif home := find_peer(peers, "llama"):
                threads = os.environ.get("THREADS") or str(os.cpu_count())
                command = [str(home / "bin" / "python"), "-m", "tests.bench.llama", str(path), threads]
                _measure(name, system, path, _started(command, site.environment()), engine)


class Served:
    """The GGUF file `path` as a worker finds it below `home`, with adapters for it."""

    def __init__(self, home: Path, path: Path) -> None:
        self.variables = site.environment() | site.PLAIN | {"VAR_DIR": str(home), "BASE_MODEL": str(path)}
        self.variables |= {"MAX_ROWS": str(USERS), "CONTEXT_LENGTH": "1024", "QUANTIZATION": "auto"}
        subprocess.run(
            [sys.executable, "-m", "inference.fetch"], cwd=site.REPO, env=self.variables, check=True, stdout=2
        )
        base, store = home / "models" / path.stem, home / "adapters"
        store.mkdir()
        self.prompts = Prompts(base)
        adapters = [write(base, home / name, seed, 8, ("q_proj", "v_proj")) for seed, name in enumerate(NARROW[:USERS])]
        self.digests = {adapter.name: put_into_store(adapter, store) for adapter in adapters}

    @contextmanager
    def started(self) -> Iterator[tuple[Process, int, float]]:
        with _started([sys.executable, "-m", "tests.bench.direct"], self.variables) as started:
            yield started

    def asks(self, users: int, requests: int) -> list[tuple[str, str, int]]:
        models = [*self.digests] if users > 1 else ["base"]
        asks = self.prompts.asks(models, requests, f"{users} of {requests}")
        return [(self.digests.get(ask.model, ""), ask.prompt, NEW_TOKENS) for ask in asks]


@contextmanager
def _started(command: list[str], variables: dict[str, str]) -> Iterator[tuple[Process, int, float]]:
    """A system that is ready, its process, and after how many seconds it was."""
    began, streams = time.perf_counter(), {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=site.REPO, env=variables, text=True, **streams) as process:  # type: ignore[call-overload]
        yield Process("", process), process.pid, time.perf_counter() - began
        process.stdin.close()


def _measure(name: str, system: str, path: Path, started: Any, engine: Served) -> None:
    with started as (process, pid, seconds):
        if process.refusal:
            raise SystemExit(process.refusal)
        peak = _memory(pid)["VmHWM"]
        for what, users, requests in RUNS if system == "ours" else RUNS[:1]:
            figures = process.measure({"users": users, "asks": engine.asks(users, requests)})
            size = path.stat().st_size / 1e6
            print(
                f"| {name} | {system} | {size:,.0f} | {seconds:.1f} | {peak:,.0f} | {_memory(pid)['VmRSS']:,.0f} "
                f"| {what} | {figures['tokens_per_second']:.1f} |",
                flush=True,
            )


def _memory(pid: int) -> dict[str, float]:
    """What Linux says of a process's memory, in MB: the most (`VmHWM`) and what is resident now (`VmRSS`)."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 / 1e6 for words in lines if words[0] in ("VmHWM:", "VmRSS:")}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.sizes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--home", type=Path, default=site.REPO / "var" / "sizes", help="where the files are kept")
    parser.add_argument("--peers", type=Path, default=PEERS, help="where `python -m tests.bench.peers` put llama.cpp")
    return parser.parse_args()


if __name__ == "__main__":
    main()
