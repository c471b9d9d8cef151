"""`python -m tests.bench.quality --data DIR`: what fewer bits, and other decoders, cost the trained adapters.

Scores every adapter of adapters/ on the test rows of DIR/<slug>/test.jsonl, once for each setting, on the engine
itself, and prints a row an adapter. Each setting runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from inference.adapters.identity import adapter_digest
from inference.config import read_config
from inference.engine.engine import Engine
from inference.model.torch_environment import prepare_torch
from inference.tasks.baseline import tallies
from inference.tasks.data import Row, read_rows
from inference.tasks.metrics import score
from inference.tasks.recipe import Recipe, load_recipe
from inference.tasks.template import fill
from inference.wire.protocol import AdapterRef, Delta, Failed, Generate, Sampling
from tests.bench.site import REPO

SETTINGS = {
    "bf16": {},
    "int8": {"QUANTIZATION": "int8"},
    "int4": {"QUANTIZATION": "int4"},
    "torch": {"DECODER": "torch"},
}


def main() -> None:
    options = _options()
    prepare_torch()
    if options.setting:
        print(json.dumps(measure(options.data, options.rows, options.tasks)))
        return
    columns = {name: _in_a_process(name, options) for name in options.settings.split(",")}
    print("| adapter | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns))
    for slug in next(iter(columns.values())):
        print(f"| {slug} | " + " | ".join(f"{100 * scores[slug]:.1f}" for scores in columns.values()) + " |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.quality", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=300, help="test rows of each task")
    parser.add_argument("--tasks", nargs="+", help="default: every adapter")
    parser.add_argument("--settings", default="bf16,int8,int4", help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_a_process(name: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.quality", "--setting", name]
    command += ["--data", str(options.data), "--rows", str(options.rows)]
    command += ["--tasks", *options.tasks] if options.tasks else []
    with tempfile.TemporaryDirectory(prefix="loraland-quality-") as directory:
        (Path(directory) / "models").symlink_to(REPO / "var" / "models")
        environment = {**os.environ, "VAR_DIR": directory, **SETTINGS[name]}
        output = subprocess.run(
            command, env=environment, cwd=REPO, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
    return json.loads(output.splitlines()[-1])


def measure(data: Path, count: int, tasks: Sequence[str] | None) -> dict[str, float]:
    """Scores by slug of `tasks` or of all, with the engine that the environment asks for."""
    config = read_config()
    folders = sorted(path.parent for path in (REPO / "adapters").glob("*/card.toml"))
    folders = [folder for folder in folders if not tasks or folder.name in tasks]
    digests = {folder.name: _store(folder, config.adapters_dir) for folder in folders}
    engine = Engine(config)
    torch.set_num_threads(1 if engine.machine.is_native else torch.get_num_threads())
    scores = {}
    for slug, digest in digests.items():
        began, recipe = time.perf_counter(), load_recipe(slug)
        rows = read_rows(data / slug / "test.jsonl", recipe.field_names)[:count]
        scores[slug] = score(tallies(_answers(engine, recipe, digest, rows), rows, recipe))
        print(f"{slug} {100 * scores[slug]:.1f} {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    engine.close()
    return scores


def _store(source: Path, store: Path) -> str:
    config = json.loads((source / "adapter_config.json").read_text())
    digest = adapter_digest(config, source / "adapter_model.safetensors")
    shutil.copytree(source, store / digest)
    return digest


def _answers(engine: Engine, recipe: Recipe, digest: str, rows: Sequence[Row]) -> list[str]:
    sampling = Sampling(max_tokens=recipe.max_answer)
    waiting = [
        Generate(str(number), AdapterRef(digest), prompt=fill(recipe.template, row.inputs), sampling=sampling)
        for number, row in enumerate(rows)
    ][::-1]
    texts = [""] * len(rows)
    while waiting or engine.has_work:
        while waiting and engine.capacity:
            engine.add(waiting.pop())
        for event in engine.step():
            if isinstance(event, Failed):
                raise RuntimeError(event.error)
            if isinstance(event, Delta):
                texts[int(event.id)] += event.text
    return texts


if __name__ == "__main__":
    main()
