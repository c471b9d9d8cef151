"""The two random matrices of a VeRA that was saved without them, drawn again as PEFT drew them.

They follow from `projection_prng_key` by torch's generator of a CPU, which nobody promised to keep. So it is first
asked for numbers that are known; where it gives others, nothing is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from inference.adapters.config_file import ConfigRefused, read_config
from inference.adapters.examination import CONFIG, WEIGHTS
from inference.adapters.expansion import widths
from inference.adapters.identity import SHARED, part_of
from inference.adapters.methods.method import MOST_RANK
from inference.adapters.methods.vera import SHARED_A, SHARED_B, read
from inference.model.architecture import ArchitectureError, read_architecture

KNOWN: Final = (0, 1, 1234567)
"""Keys whose numbers are known."""
NUMBERS: Final = (
    (8325804, 12888623, 1484405, 5690642, 8418713, 6775704),
    (12710949, 4686059, 6762380, 1203710, 5745774, 12055986),
    (11399571, 1422975, 16072308, 15681822, 7243079, 5798904),
)
"""Of each key the first and the last three of a thousand in [0, 1), in 2^24ths."""


class NotDrawn(ValueError):
    """A VeRA whose matrices cannot be drawn again; the message is a sentence."""


def lacks_projections(folder: Path) -> bool:
    """Whether `folder` holds a VeRA that was saved without its matrices."""
    try:
        config = read_config(folder / CONFIG)
    except (ConfigRefused, OSError):
        return False
    return str(config.get("peft_type")).upper() == "VERA" and config.get("save_projection") is False


def write_with_projections(
    folder: Path, base: Path | None, read_all: Callable[[Path], dict[str, Tensor]], target: Path
) -> None:
    """Write the VeRA in `folder`, with the matrices that PEFT drew for the model in `base`, into the existing folder
    `target`. Raises `NotDrawn`."""
    config = read_config(folder / CONFIG) | {"save_projection": True}
    reasons = read(config, MOST_RANK)[1]
    if reasons:
        raise NotDrawn(f"{folder} is refused: {' '.join(reasons)}")
    if base is None:
        raise NotDrawn(f"{folder} is a VeRA without its matrices; say by --base which folder holds the model's config.")
    tensors = read_all(folder)
    tensors |= drawn(config, *_largest(tensors, base))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target / WEIGHTS)
    (target / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def drawn(config: dict[str, Any], inputs: int, outputs: int) -> dict[str, Tensor]:
    """A [rank, inputs] and B [outputs, rank], uniform within the bound of Kaiming's, by their names in a file."""
    key, rank = config.get("projection_prng_key", 0), config["r"]
    if type(key) is not int or not 0 <= key < 2**63:
        raise NotDrawn(f"projection_prng_key is {key!r}; it must be a whole number.")
    if any(_numbers_of(known) != numbers for known, numbers in zip(KNOWN, NUMBERS, strict=True)):
        raise NotDrawn(f"torch {torch.__version__} draws other numbers than those that are known; use another version.")
    generator = torch.Generator("cpu").manual_seed(key)
    matrices = {SHARED_A: torch.empty(rank, inputs), SHARED_B: torch.empty(outputs, rank)}
    for matrix in matrices.values():
        bound = math.sqrt(3.0) * (math.sqrt(2) / math.sqrt(matrix.shape[1]))
        matrix.uniform_(-bound, bound, generator=generator)
    return {name: matrices[part] for name, part in SHARED.items() if part in matrices}


def _numbers_of(key: int) -> tuple[int, ...]:
    numbers = torch.empty(1000).uniform_(generator=torch.Generator("cpu").manual_seed(key)).tolist()
    return tuple(int(number * 2**24) for number in numbers[:3] + numbers[-3:])


def _largest(tensors: dict[str, Tensor], base: Path) -> tuple[int, int]:
    """The most inputs and outputs of a module that was trained."""
    try:
        architecture = read_architecture(base / "config.json")
    except ArchitectureError as error:
        raise NotDrawn(f"{error}.") from error
    modules = {found[0] for name in tensors if (found := part_of(name)) and found[1].startswith("vera_")}
    if not modules or not all(map(architecture.places, modules)):
        raise NotDrawn(f"The modules of the adapter are not those of {architecture.name}.")
    sizes = [widths(architecture, module) for module in modules]
    return max(size[0] for size in sizes), max(size[1] for size in sizes)
