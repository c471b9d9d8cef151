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
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).parent / "source"
BUILT: Final = Path(__file__).parent / "built"
FLAGS: Final = ("-std=c++20", "-O3", "-fPIC", "-pthread", "-fvisibility=hidden", "-ffp-contract=off")
_AVX2: Final = ("-mavx2", "-mfma")
_AVX512: Final = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")
_X86: Final = {
    "amx": (*_AVX512, "-mavx512vnni", "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
    "avx512_bf16": (*_AVX512, "-mavx512vnni", "-mavx512bf16"),
    "avx512_vnni": (*_AVX512, "-mavx512vnni"),
    "avx512": _AVX512,
    "avx_vnni": (*_AVX2, "-mavxvnni"),
    "avx2": _AVX2,
}
_ARM: Final = {
    "neon_bf16": ("-march=armv8.2-a+dotprod+bf16+i8mm",),
    "neon_dot": ("-march=armv8.2-a+dotprod",),
    "neon": (),
}
_PORTABLE: Final[dict[str, tuple[str, ...]]] = {"portable": ("-DNATIVE_PORTABLE",)}
UNIT_FLAGS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "x86_64": _X86 | _PORTABLE,
    "aarch64": _ARM | _PORTABLE,
    "arm64": _ARM | _PORTABLE,
}
"""The units of an architecture, the most able first, and what the compiler is told for each. Others are portable."""


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
    """What this machine lacks for the native decoder, or None."""
    if platform.system() not in ("Linux", "Darwin"):
        return f"it is written for Linux and macOS, and this is {platform.system()}"
    if _found_compiler() is None:
        return "no C++ compiler is installed; install g++ or clang++"
    return None


def units_of(architecture: str) -> dict[str, tuple[str, ...]]:
    """The units of an architecture and their flags."""
    return UNIT_FLAGS.get(architecture, _PORTABLE)


def _found_compiler() -> str | None:
    return shutil.which("g++") or shutil.which("clang++")


def _compiler() -> str:
    reason = missing_feature()
    compiler = _found_compiler()
    if reason or compiler is None:
        raise BuildError(reason or "no C++ compiler is installed")
    return compiler


def _identity(compiler: str) -> str:
    flags = (*FLAGS, platform.machine(), *map(str, units_of(platform.machine()).items()))
    state = hashlib.sha256(" ".join(flags).encode())
    state.update(subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout)
    for source in sorted(SOURCES.iterdir()):
        state.update(source.name.encode() + b"\0" + source.read_bytes())
    return state.hexdigest()[:16]


def _compile(compiler: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        fresh = Path(directory) / path.name
        compile_units([compiler], units_of(platform.machine()), fresh)
        fresh.rename(path)


def compile_units(compiler: Sequence[str], units: Mapping[str, tuple[str, ...]], library: Path) -> None:
    """Compile the decoder of `units` into a shared library, one object file a unit beside it. An older compiler may
    not know a unit's flags: that one is left out. Raises `BuildError`."""
    known = {name: flags for name, flags in units.items() if _knows(compiler, flags)}
    listed = " ".join(f"each({name.upper()}, {name})" for name in known)
    jobs = [[*flags, f"-DNATIVE_UNIT={name}", str(SOURCES / "unit.cpp")] for name, flags in known.items()]
    jobs.append([f"-DNATIVE_UNITS(each)={listed}", str(SOURCES / "binding.cpp")])
    objects = [library.with_name(f"{name}.o") for name in (*known, "binding")]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(lambda job, to: _run([*compiler, *FLAGS, *job, "-c", "-o", str(to)]), jobs, objects))
    # Of a function that several have, the first stays: that of the least able unit, which all processors can run.
    _run([*compiler, *FLAGS, "-shared", *map(str, reversed(objects)), "-o", str(library)])


def _knows(compiler: Sequence[str], flags: Sequence[str]) -> bool:
    command = [*compiler, *flags, "-x", "c++", "-fsyntax-only", "/dev/null"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: Sequence[str]) -> None:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise BuildError(f"{command[0]} does not compile it:\n{run.stderr[-2000:]}")


def main() -> int:
    """Compile ahead of time. A machine that cannot is told so and does without."""
    try:
        print(f"The native decoder is ready: {library_path()}")
    except BuildError as error:
        print(f"The native decoder is not used here, torch computes instead: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
