"""The parts of a blend from their folders, as serving reads and refuses them, for a gate to learn over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from inference.adapters.blend import blend
from inference.adapters.config_file import read_config
from inference.adapters.examination import CONFIG, WEIGHTS
from inference.adapters.file import AdapterRefused, Base, HostAdapter, read_adapter
from inference.adapters.gate import Gate
from inference.adapters.identity import adapter_digest, blended_digest
from inference.model.architecture import Architecture
from inference.model.base_weights import BaseWeights
from inference.training.gated import FrozenParts, frozen
from inference.wire.protocol import GateRef


class PartRefused(ValueError):
    """An adapter that no gate can weigh here; the message is a sentence."""


@dataclass(frozen=True)
class Parts:
    """Adapters side by side: their digests in order, what they do to each target, and the gates that Arrow has."""

    digests: tuple[str, ...]
    by_target: FrozenParts
    arrow: dict[str, Gate]


def read_parts(
    folders: Sequence[Path], base: Path, architecture: Architecture, max_rank: int, device: torch.device
) -> Parts:
    """The adapters in `folders` for the base in the folder `base`. Raises `PartRefused` and OSError.

    A part that no gate can weigh is refused as a worker refuses it: a DoRA, an aLoRA, one of another base, and ranks
    above `max_rank` together.
    """
    weights = BaseWeights(base, architecture, torch.bfloat16)
    served = Base(architecture, torch.bfloat16, weights.read, weights.bias, weights.identity)
    adapters = [_read(folder, served, max_rank) for folder in folders]
    digests = [adapter.digest for adapter in adapters]
    if len(set(digests)) < len(digests):
        raise PartRefused(f"one adapter is named twice among {', '.join(map(str, folders))}; name each part once")
    whole, arrow = blended_digest(digests, "arrow", 0, 1.0, ""), GateRef("arrow")
    try:
        together = blend(whole, [(adapter, 1.0) for adapter in adapters], arrow, None, max_rank)
    except AdapterRefused as error:
        raise PartRefused(f"the parts cannot be blended: {error}") from error
    gates = {target: pair.gate for target, pair in together.weights.items() if pair.gate}
    return Parts(tuple(digests), frozen(together.weights, device), gates)


def _read(folder: Path, base: Base, max_rank: int) -> HostAdapter:
    if not (folder / CONFIG).is_file():
        raise PartRefused(f"there is no adapter in {folder}; a part is a folder with {CONFIG} and {WEIGHTS}")
    try:
        digest = adapter_digest(read_config(folder / CONFIG), folder / WEIGHTS)
        return read_adapter(folder, digest, base, max_rank)
    except ValueError as error:
        raise PartRefused(f"the part {folder} is refused: {error}") from error
