"""What was found of an adapter's tensors: whose each is, and problems, told in one sentence for each kind."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from inference.adapters.identity import TensorInfo
from inference.model.architecture import Architecture

Parts = dict[str, TensorInfo]
"""The tensors of one module: A [rank, in], B [out, rank], its bias, the shift [out], magnitude [out], base [vocab,
hidden], bias [out], rows [n, hidden]; of other methods what these have (`inference.adapters.methods`)."""

MAX_NAME: Final = 200
SHOWN: Final = 3


class Findings:
    """Problems and the names they were found under, told in one sentence for each kind."""

    def __init__(self) -> None:
        self._names: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, problem: str, name: str) -> None:
        shown = name if name.isprintable() else ascii(name)
        self._names[problem].append(shown if len(shown) <= MAX_NAME else f"{shown[:MAX_NAME]}…")

    def sentences(self) -> list[str]:
        return [f"{problem}: {_listed(list(dict.fromkeys(names)))}." for problem, names in self._names.items()]


@dataclass(frozen=True)
class Binding:
    """The modules that an adapter changes, by their names in checkpoints, and what keeps it from being loaded.

    `faults` are wrong for any base, `misfits` only for the one whose shapes were asked for; `remarks` keep nothing from
    it, and its owner should know them.
    """

    modules: defaultdict[str, Parts] = field(default_factory=lambda: defaultdict(dict))
    faults: Findings = field(default_factory=Findings)
    misfits: Findings = field(default_factory=Findings)
    remarks: Findings = field(default_factory=Findings)
    tables: Parts = field(default_factory=dict)
    """Whole tables, by their modules, that lie beside a LoRA on something else."""
    biases: Parts = field(default_factory=dict)
    """Biases in place of the base's, by their modules."""
    rows: Parts = field(default_factory=dict)
    """Trained rows of tables, by their modules."""
    shared: Parts = field(default_factory=dict)
    """Tensors of all modules, by their parts."""
    architecture: Architecture | None = None
    """The base in the names of whose code the adapter was trained on."""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def dims(shape: tuple[int, ...]) -> str:
    return "×".join(str(size) for size in shape) or "a single number"
