"""What this processor multiplies at most: one instruction over and over, on all cores, by `peak.cpp`.

`python -m tests.bench.peak` prints the GFLOP/s of each instruction that is known here.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).parent / "peak.cpp"
SECONDS, TRIES = 0.1, 4
_PLAIN: Final = "MULPS" if platform.machine() in ("x86_64", "AMD64") else "FMLA"
_FMA_512, _FMA_256, _BYTES_512 = "FMA_512", "FMA_256", "DPBUSD_512"
INSTRUCTIONS: Final = {
    # unit: by pairs of bfloat16 or what they are widened to, by bytes, by float32
    "amx": ("AMX_BF16", "AMX_BF16", _FMA_512),
    "avx512_bf16": ("DPBF16_512", _BYTES_512, _FMA_512),
    "avx512_vnni": (_FMA_512, _BYTES_512, _FMA_512),
    "avx512": (_FMA_512, "MADDUBS_512", _FMA_512),
    "avx_vnni": (_FMA_256, "DPBUSD_256", _FMA_256),
    "avx2": (_FMA_256, "MADDUBS_256", _FMA_256),
    "neon_bf16": ("BFMMLA", "SDOT", "FMLA"),
    "neon_dot": ("FMLA", "SDOT", "FMLA"),
    "neon": ("FMLA", "FMLA", "FMLA"),
    "portable": (_PLAIN, _PLAIN, _PLAIN),
}
"""By which instruction a unit of the native decoder multiplies at its fastest."""
KINDS: Final = ("bfloat16", "bytes", "float32")


class NoPeak(Exception):
    """The peak cannot be measured here, with the reason."""


def instruction_of(unit: str, dtype: str, quantization: str) -> str:
    """By what a decoder on `unit` could multiply; raises `NoPeak` for one whose instructions are not known."""
    if unit not in INSTRUCTIONS:
        raise NoPeak(f"nobody knows by which instruction the unit {unit or 'of torch'} multiplies")
    kind = "bytes" if quantization in ("int8", "int4") else dtype
    return INSTRUCTIONS[unit][KINDS.index(kind)]


def measure(instruction: str, threads: int = 0) -> float:
    """Operations a second of all cores, or of `threads`: the most of some tries, for others take a part of one. Raises
    `NoPeak`."""
    return max(_measure_once(instruction, threads or os.cpu_count() or 1) for _ in range(TRIES))


def _measure_once(instruction: str, threads: int) -> float:
    command = [_program(instruction), str(threads), str(SECONDS)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise NoPeak(f"this processor has no {instruction}: {run.stderr.strip() or f'signal {-run.returncode}'}")
    return float(run.stdout)


@cache
def _program(instruction: str) -> str:
    """The path of `peak.cpp` compiled for one instruction, once a process."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        raise NoPeak("no C++ compiler is installed; install g++")
    path = str(Path(_folder().name) / instruction)
    command = [compiler, "-std=c++20", "-O2", "-pthread", f"-D{instruction}", str(SOURCE), "-o", path]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        reasons = [line for line in run.stderr.splitlines() if "error" in line.lower()]
        raise NoPeak(f"{compiler} does not compile {instruction}: {(reasons or ['it does not say why'])[0]}")
    return path


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Goes with the process."""
    return tempfile.TemporaryDirectory(prefix="loraland-peak-")


def main() -> None:
    for instruction in dict.fromkeys(name for names in INSTRUCTIONS.values() for name in names):
        try:
            print(f"{instruction:<12}{measure(instruction) / 1e9:>9,.0f}", flush=True)
        except NoPeak as error:
            print(f"{instruction:<12}        –  {error}")


if __name__ == "__main__":
    main()
