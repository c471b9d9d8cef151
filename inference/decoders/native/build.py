"""Compile the native decoder once for this machine's compiler, and find it again.

``python -m inference.decoders.native.build`` does it ahead of the first worker. The library lies under the hash of its
sources, flags and compiler, so that a changed source is a new file and two workers that compile at once do no harm.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import torch

SOURCES: Final = Path(__file__).parent / "source"
BUILT: Final = Path(__file__).parent / "built"
FEATURES: Final = ("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx512_bf16", "avx512_vnni")
FLAGS: Final = (
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-mfma",
    "-mavx512f",
    "-mavx512bw",
    "-mavx512vl",
    "-mavx512dq",
    "-mavx512bf16",
    "-mavx512vnni",
    "-mamx-tile",
    "-mamx-bf16",
    "-mamx-int8",
)


class BuildError(Exception):
    """The native decoder cannot be had here, with the reason."""


def library_path(var_dir: Path | None = None) -> Path:
    """The compiled library, compiled now if need be: beside its sources, or in `var_dir` where those are read-only.

    Raises `BuildError`.
    """
    compiler = _compiler()
    name = f"decoder-{_identity(compiler)}.so"
    if (BUILT / name).exists():
        return BUILT / name
    is_writable = os.access(BUILT.parent, os.W_OK)
    path = (BUILT if is_writable or var_dir is None else var_dir / "native") / name
    if not path.exists():
        _compile(compiler, path)
    return path


def missing_feature() -> str | None:
    """What this processor lacks for the native decoder, or None."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "it is written for Linux on x86-64"
    features = torch.cpu.get_capabilities()
    lacking = [name for name in FEATURES if not features.get(name)]
    return f"the processor has no {', '.join(lacking)}" if lacking else None


def _compiler() -> str:
    reason = missing_feature()
    if reason:
        raise BuildError(reason)
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise BuildError("no C++ compiler is installed; install g++")
    return compiler


def _identity(compiler: str) -> str:
    state = hashlib.sha256(" ".join(FLAGS).encode())
    state.update(subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout)
    for source in sorted(SOURCES.iterdir()):
        state.update(source.name.encode() + b"\0" + source.read_bytes())
    return state.hexdigest()[:16]


def _compile(compiler: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        fresh = Path(directory) / path.name
        command = [compiler, *FLAGS, *map(str, sorted(SOURCES.glob("*.cpp"))), "-o", str(fresh)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise BuildError(f"{compiler} does not compile it:\n{run.stderr[-2000:]}")
        fresh.rename(path)


def main() -> int:
    """Compile ahead of time. A machine that cannot is told so and does without."""
    try:
        print(f"The native decoder is ready: {library_path()}")
    except BuildError as error:
        print(f"The native decoder is not used here, torch computes instead: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
