"""What torch's libraries read from the environment when they are loaded; whoever computes with torch sets it first.

It loads no torch itself. What the operator has set stays, and `inference.model.fingerprint` names what shapes a bit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from typing import Final

EXACT_SUMS: Final = "MKL_CBWR"
"""Names the branch of Intel's library by which float32 is multiplied. Unset, its threads divide a product by how many
rows come together, and on AMD's processors a row then has other bits in other company."""
SETTINGS: Final = {
    EXACT_SUMS: "AUTO,STRICT",
    # How often a waiting thread of OpenMP looks before it sleeps. By its own 300,000 looks it takes from other
    # programs, and from the thread that it waits for, the processor that they need: beside four busy programs half the
    # tokens. With no looks at all it sleeps so often that an idle machine makes a third less.
    "GOMP_SPINCOUNT": "3000",
    # The same for LLVM's and Intel's OpenMP, which torch has on a Mac: milliseconds, 200 of its own. One costs an idle
    # machine nothing and makes two to three times the tokens beside a busy program.
    "KMP_BLOCKTIME": "1",
}


def sums(environ: Mapping[str, str] = os.environ) -> str:
    """How float32 is multiplied, as far as the environment says."""
    return environ.get(EXACT_SUMS, "")


def prepare_torch(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set what is unset of `SETTINGS`. Without effect on a process that has loaded torch."""
    for name, value in SETTINGS.items():
        environ.setdefault(name, value)
