"""How a gate weighs the parts of a blend, in plain words, with the paper that it is from and how it is set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from inference.wire.protocol import GateKind, GateRef
from loraland.catalogue import blends
from loraland.catalogue.models import AdapterVersion

TOP_K: Final = "top_k"
TEMPERATURE: Final = "temperature"


@dataclass(frozen=True)
class Kind:
    """A kind of gate: how it `weighs` the parts, what a `weight` of it means, and its paper on arXiv."""

    weighs: str
    weight: str
    authors: str
    paper: str

    @property
    def address(self) -> str:
        return f"https://arxiv.org/abs/{self.paper}"


KINDS: Final[dict[GateKind, Kind]] = {
    "arrow": Kind(
        "In each linear of each layer, every token counts the parts whose strongest direction its input lies nearest "
        "to. These directions follow from the parts themselves: nothing was trained for the blend, and it has no file.",
        "The weights of a token are a softmax of how near it lies, so those that count add up to 1, and a part says "
        "less here than it does alone.",
        "Ostapenko and others, 2024",
        "2405.11157",
    ),
    "flow": Kind(
        "A gate was trained together with these parts, in this order. At the beginning of each layer it reads what the "
        "model has in mind of a token, and gives each part one weight for all linears of that layer.",
        "The weights of a token are a softmax plus a trained offset: a part may count fully, not at all, or be taken "
        "away (a weight below 0).",
        "Wang and others, 2024",
        "2402.11455",
    ),
    "ramole": Kind(
        "A router was trained on several adapters. In each linear it compares what a token asks for with what each "
        "part would add, so it weighs parts that it never met in training, too.",
        "The weights of a token are a softmax, so they add up to 1, and a part says less here than it does alone.",
        "Zhao and others, 2024",
        "2406.16989",
    ),
}


@dataclass(frozen=True)
class Gating:
    """What weighs the parts of one blend."""

    name: str
    kind: Kind
    ref: GateRef
    num_parts: int
    top_k: int
    temperature: float

    @property
    def warmth(self) -> str:
        """The temperature, with as many digits as it needs."""
        return f"{self.temperature:g}"

    @property
    def counted(self) -> str:
        """How many parts count at a token."""
        is_all = not 0 < self.top_k < self.num_parts
        return f"all {self.num_parts}" if is_all else f"{self.top_k} of {self.num_parts}"


def gating_of(version: AdapterVersion) -> Gating | None:
    """What weighs the parts of `version`; None where it is no blend."""
    if (ref := blends.gate_of(version)) is None:
        return None
    own: dict[str, Any] = version.config if ref.digest else version.gate
    top_k, temperature = own.get(TOP_K, 0), own.get(TEMPERATURE, 1.0)
    return Gating(version.method, KINDS[ref.kind], ref, len(version.components), top_k, temperature)
