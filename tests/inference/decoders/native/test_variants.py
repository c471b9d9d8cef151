"""A library with variants for many processors runs on the least of them."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.decoders.native.build import BuildError, compile_units, library_path, missing_feature, units_of
from inference.decoders.native.library import UNITS

pytestmark = pytest.mark.skipif(missing_feature() is not None, reason=f"not here: {missing_feature()}")
OF_A_UNIT = re.compile(r"native::(?:amx|avx\w+)::")
OF_AVX = re.compile(r"%[yz]mm|%k[1-7]\b")


def functions_with_avx(library: Path) -> Iterator[str]:
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", str(library)]
    name = ""
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        if begins := re.fullmatch(r"[0-9a-f]+ <(.*)>:", line):
            name = begins.group(1)
        elif OF_AVX.search(line):
            yield name


@pytest.mark.skipif(platform.machine() != "x86_64" or not shutil.which("objdump"), reason="reads x86 with objdump")
def test_wide_registers_are_touched_by_the_variants_that_need_them_and_by_nothing_else() -> None:
    names = set(functions_with_avx(library_path()))
    assert any("native::avx2::" in name for name in names)
    assert not [name for name in names if not OF_A_UNIT.search(name)]


def test_every_unit_that_an_architecture_has_is_known_to_python() -> None:
    for architecture in ("x86_64", "aarch64", "riscv64"):
        units = list(units_of(architecture))
        assert units[-1] == "portable"
        assert units == [name for name in UNITS if name in units]


@pytest.mark.slow
def test_flags_that_a_compiler_does_not_know_leave_that_unit_out(tmp_path: Path) -> None:
    units = {"avx2": ("-mno-such-thing",), **units_of("riscv64")}
    compile_units(["g++"], units, tmp_path / "decoder.so")
    assert not (tmp_path / "avx2.o").exists()
    assert (tmp_path / "portable.o").exists()


@pytest.mark.slow
def test_what_a_compiler_cannot_do_is_told_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"g\+\+ does not compile it:\n.*such/header"):
        compile_units(["g++", "-include", "/no/such/header.h"], {"portable": ()}, tmp_path / "decoder.so")
