"""How a gate is written around the adapters that it weighs: ``arrow:2(a+b+c)``."""

from __future__ import annotations

import re
from typing import Final

from inference.wire.protocol import GateRef
from loraland.refusal import Refused

TOP_K: Final = 3
"""Of how many parts the scores count where nobody says so, as in PEFT."""
_WORDS: Final = re.compile(r"([a-z]+)((?::[^:()]*)*)\((.*)\)", re.ASCII | re.DOTALL)
_TOP_K: Final = re.compile(r"[1-9]\d?", re.ASCII)
_TEMPERATURE: Final = re.compile(r"\d{1,3}(\.\d{1,6})?", re.ASCII)


def parted(name: str) -> tuple[GateRef, str] | None:
    """The gate that `name` begins with, and what stands in its brackets; None where there is none. Raises `Refused`."""
    if (found := _WORDS.fullmatch(name)) is None:
        return None
    kind, settings, inside = found.groups()
    if kind != "arrow":
        raise _meaningless(f"{kind[:40]!r} weighs no adapters; write arrow(a+b), or a sum such as a+0.5*b.")
    words: list[str] = [*settings.split(":")[1:], "", ""]
    top_k, temperature = words[:2]
    if len(words) > 4 or not (_TOP_K.fullmatch(top_k or "1") and _TEMPERATURE.fullmatch(temperature or "1")):
        raise _meaningless(
            f"{settings[:40]!r} is not how arrow is set; write arrow:2(...) for the two best of each token, and"
            " arrow:2:0.5(...) for a temperature."
        )
    ref = GateRef("arrow", int(top_k or TOP_K), float(temperature or 1))
    if not ref.temperature:
        raise _meaningless("A temperature of 0 divides by nothing; write arrow:1(...), where one adapter counts.")
    return ref, inside


def spelled(gate: GateRef) -> str:
    """What stands before the brackets, as `parted` reads it; of a trained gate, which nobody writes so, its kind."""
    if gate.digest:
        return gate.kind
    temperature = "" if gate.temperature == 1 else f":{gate.temperature:.6f}".rstrip("0").rstrip(".")
    return f"{gate.kind}:{gate.top_k}{temperature}"


def _meaningless(sentence: str) -> Refused:
    return Refused("invalid_model", sentence, param="model")
