"""`python -m tests.bench.quality --data DIR`: what fewer bits, and other decoders, cost the trained adapters.

Scores every adapter of adapters/ on the test rows of DIR/<slug>/test.jsonl, once for each setting, on the engine
itself or through PEFT, and prints a row an adapter. Each setting runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel

from inference.config import read_config
from inference.engine.engine import Engine
from inference.fetch import find_model
from inference.model.torch_environment import prepare_torch
from inference.tasks.baseline import tallies
from inference.tasks.data import Row, read_rows
from inference.tasks.metrics import score
from inference.tasks.recipe import Recipe, load_recipe
from inference.tasks.template import fill
from inference.training.scoring import put_into_store, tuned_tallies
from inference.wire.protocol import AdapterRef
from tests.bench.site import REPO
from tests.inference.training.through_peft import answers, load_base

SETTINGS = {
    "bf16": {},
    "int8": {"QUANTIZATION": "int8"},
    "int4": {"QUANTIZATION": "int4"},
    "torch": {"DECODER": "torch"},
    "peft": {},
}
"""What the environment of each column is. All are the engine's but `peft`: transformers and PEFT, the slow truth."""


def main() -> None:
    options = _options()
    prepare_torch()
    if options.setting:
        measure = _through_peft if options.setting == "peft" else _by_the_engine
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


def _by_the_engine(data: Path, count: int, tasks: Sequence[str] | None) -> dict[str, float]:
    """Scores by slug of `tasks` or of all, with the engine that the environment asks for."""
    config = read_config()
    adapters = {path.name: AdapterRef(put_into_store(path, config.adapters_dir)) for path in _folders(tasks)}
    engine = Engine(config)
    torch.set_num_threads(1 if engine.machine.runner.decoder.has_own_threads else torch.get_num_threads())
    scores = {}
    for slug, adapter in adapters.items():
        began, (recipe, rows) = time.perf_counter(), _rows(data, slug, count)
        scores[slug] = score(tuned_tallies(engine, adapter, rows, recipe, lambda: None))
        _tell(slug, scores[slug], began)
    engine.close()
    return scores


def _through_peft(data: Path, count: int, tasks: Sequence[str] | None) -> dict[str, float]:
    """The same scores through transformers' `generate`, the base loaded anew for each adapter."""
    base, scores = find_model(read_config()), {}
    for folder in _folders(tasks):
        began, (recipe, rows) = time.perf_counter(), _rows(data, folder.name, count)
        model, tokenizer = load_base(base, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        prompts = [fill(recipe.template, row.inputs) for row in rows]
        texts = answers(PeftModel.from_pretrained(model, folder), tokenizer, prompts, recipe.max_answer)
        scores[folder.name] = score(tallies([text.strip() for text in texts], rows, recipe))
        _tell(folder.name, scores[folder.name], began)
    return scores


def _folders(tasks: Sequence[str] | None) -> list[Path]:
    folders = sorted(path.parent for path in (REPO / "adapters").glob("*/card.toml"))
    return [folder for folder in folders if not tasks or folder.name in tasks]


def _rows(data: Path, slug: str, count: int) -> tuple[Recipe, Sequence[Row]]:
    recipe = load_recipe(slug)
    return recipe, read_rows(data / slug / "test.jsonl", recipe.field_names)[:count]


def _tell(slug: str, score: float, began: float) -> None:
    print(f"{slug} {100 * score:.1f} {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
