"""`python -m inference.adapters.export FOLDER --base MODEL`: an adapter of any method as the plain LoRA that it is
expanded to, for programs that know LoRA alone.

A and B are float32, as a worker makes them before it rounds them to its type, so the LoRA answers as the adapter does.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from inference.adapters import invocation
from inference.adapters.examination import CONFIG, WEIGHTS, Examination, examine_files
from inference.adapters.expansion import expand, read_parts, widths
from inference.adapters.methods.method import MOST_RANK, Method
from inference.model import added_tokens
from inference.model.architecture import Architecture, ArchitectureError, read_architecture

_KEPT: Final = (
    *("task_type", "base_model_name_or_path", "target_modules", "exclude_modules", "layers_to_transform"),
    *("layers_pattern", invocation.KEY, added_tokens.KEY),
)
"""Keys that mean the same of a LoRA."""


class NotExported(Exception):
    """An adapter that has no plain LoRA, or files that are none; the message is a sentence."""


def export(folder: Path, base: Path, home: Path) -> None:
    """Write the adapter in `folder`, for the model in `base`, as a LoRA into `home`. Raises `NotExported`."""
    if (home / CONFIG).exists() or (home / WEIGHTS).exists():
        raise NotExported(f"{home} holds an adapter already, and is not overwritten.")
    try:
        architecture = read_architecture(base / "config.json")
        found = examine_files(folder / CONFIG, folder / WEIGHTS, architecture, MOST_RANK)
    except (ArchitectureError, OSError) as error:
        raise NotExported(f"{error}.") from error
    method = _method_of(folder, found)
    tensors = _expanded(folder / WEIGHTS, found, method, found.architecture or architecture)
    home.mkdir(parents=True, exist_ok=True)
    save_file(tensors, home / WEIGHTS, metadata={"format": "pt"})
    (home / CONFIG).write_text(json.dumps(_config(found, tensors), indent=2) + "\n", encoding="utf-8")


def _method_of(folder: Path, found: Examination) -> Method:
    if found.reasons or found.meaning is None:
        raise NotExported(f"{folder} is refused: {' '.join(found.reasons)}")
    if found.meaning.method is None:
        raise NotExported(f"{folder} is a LoRA already.")
    if found.rows or found.tables or found.biases:
        raise NotExported(f"{folder} trained biases or tables of the base beside, which stay as they are: copy them.")
    return found.meaning.method


def _expanded(weights: Path, found: Examination, method: Method, architecture: Architecture) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    with safe_open(weights, framework="pt") as file:
        shared = read_parts(file, found.shared)
        for module, parts in found.modules.items():
            pair = expand(method, module, read_parts(file, parts) | shared, *widths(architecture, module))
            for side, matrix in _not_empty(pair).items():
                tensors[f"base_model.model.{module}.lora_{side}.weight"] = matrix.contiguous()
    return tensors


def _not_empty(pair: dict[str, Tensor]) -> dict[str, Tensor]:
    """A pair of no rank as one of rank 1 that adds nothing: PEFT wants one of each module that is trained."""
    a, b = pair["A"], pair["B"]
    return {"A": a, "B": b} if len(a) else {"A": a.new_zeros(1, a.shape[1]), "B": b.new_zeros(len(b), 1)}


def _config(found: Examination, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """With the rank that each module has, and the alpha that scales it as it was scaled."""
    assert found.meaning is not None, "what is exported was read"
    ranks = {module: len(tensors[f"base_model.model.{module}.lora_A.weight"]) for module in found.modules}
    rank = max(ranks.values())
    alphas = {module: found.meaning.scaling(module) * own for module, own in ranks.items()}
    alpha = next(alphas[module] for module in ranks if ranks[module] == rank)
    return {key: found.config[key] for key in _KEPT if key in found.config} | {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: own for module, own in ranks.items() if own != rank},
        "alpha_pattern": {module: own for module, own in alphas.items() if own != alpha},
        "bias": "none",
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m inference.adapters.export", description="A plain LoRA.")
    parser.add_argument("folder", type=Path, help="with the adapter's two files")
    parser.add_argument("--base", type=Path, required=True, help="the folder of the model that it is for")
    parser.add_argument("--to", type=Path, help="where the LoRA goes (FOLDER/lora)")
    options = parser.parse_args(arguments)
    home = options.to or options.folder / "lora"
    try:
        export(options.folder, options.base, home)
    except NotExported as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Wrote {home}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
