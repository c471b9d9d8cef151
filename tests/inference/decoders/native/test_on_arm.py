"""The decoder on ARM: compiled by a cross compiler, run in an emulator, and held against torch's answers."""

from __future__ import annotations

import ctypes
import math
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inference.adapters.store import AdapterCache, AdapterStore
from inference.decoders.native.bank import NativeBank
from inference.decoders.native.build import FLAGS, SOURCES, compile_units, missing_feature, units_of
from inference.decoders.native.elementwise import NativeElementwise
from inference.decoders.native.library import UNITS, Training
from inference.wire.protocol import GateRef
from tests.inference.blends import ref_of
from tests.inference.checkpoints import load_base, make_adapter, make_model
from tests.inference.decoders.native.image import Recorder
from tests.inference.decoders.native.test_native_decoder import (
    ADAPTERS,
    DEQUANTIZING,
    WIDE,
    Twins,
    answer,
    assert_as_true_as_torch,
)
from tests.inference.decoders.native.test_native_elementwise import FUNCTIONS, assert_equals_its_twin
from tests.inference.passes import Passes

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
LACKING = [name for name in (COMPILER, EMULATOR) if shutil.which(name) is None]
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING) or missing_feature() is not None, reason=f"not here: {', '.join(LACKING)}"),
]
ARM_UNITS = list(units_of("aarch64"))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("arm") / "decoder.so"
    compile_units([COMPILER], units_of("aarch64"), path)
    return path


@pytest.fixture(scope="session")
def driver(library: Path) -> Path:
    return make_driver(library, "driver")


@pytest.fixture(scope="session")
def training_driver(library: Path) -> Path:
    return make_driver(library, "training_driver")


def make_driver(library: Path, name: str) -> Path:
    home = library.parent
    source = Path(__file__).with_name(f"{name}.cpp")
    command = [COMPILER, *FLAGS, f"-I{SOURCES}", str(source), str(library), f"-Wl,-rpath,{home}"]
    subprocess.run([*command, "-o", str(home / name)], check=True)
    return home / name


def emulate(program: Path, *arguments: object, given: bytes = b"") -> bytearray:
    """What `program` writes."""
    command = [EMULATOR, "-cpu", "max", "-L", root_of(COMPILER), str(program), *map(str, arguments)]
    return bytearray(subprocess.run(command, input=given, capture_output=True, check=True).stdout)


@cache
def root_of(compiler: str) -> str:
    """Where the libraries of the other processor lie."""
    run = subprocess.run([compiler, "-print-sysroot"], capture_output=True, text=True, check=True)
    return run.stdout.strip().rstrip("/") or "/usr/aarch64-linux-gnu"


class Arm:
    """The passes of `twins` as an ARM processor computes them."""

    def __init__(self, driver: Path, twins: Twins, unit: str) -> None:
        self._driver, self._twins, self._unit = driver, twins, unit

    def answer(self, digests: tuple[str, ...] = (), split: int = 71, gate: GateRef | None = None) -> Tensor:
        passes = blended(self._twins, "native", digests, gate) if gate else self._twins.passes("native", digests)
        native = self._twins.native
        assert isinstance(native.bank, NativeBank)
        recorder, library = Recorder(native, native.bank), native._library._library
        rows = answer(passes, 0 if digests else -1, split=split)
        native._library = library
        path = self._driver.with_name("image")
        recorder.write(path, native.view)
        told = emulate(self._driver, path, UNITS.index(self._unit))
        return torch.frombuffer(told, dtype=torch.float32).view(len(rows), -1)[:, : rows.shape[1]]


def blended(twins: Twins, name: str, digests: tuple[str, ...], gate: GateRef) -> Passes:
    """Passes with a blend of `digests` in the first slot."""
    passes = twins.passes(name, digests)
    base = replace(load_base(twins.directory, passes.dtype), is_packed=passes.decoder.bank.is_packed)
    cache = AdapterCache(AdapterStore(twins.store, base).load, 2**30, prepare=passes.decoder.bank.prepare)
    passes.decoder.bank.put(0, cache.load(*ref_of(list(digests), gate)).weights)
    return passes


class ArmElementwise(NativeElementwise):
    """The operators of training as an ARM processor computes them, all rows in one call."""

    def __init__(self, driver: Path, unit: str) -> None:
        self._driver, self._unit = driver, unit

    def _share(
        self,
        name: str,
        count: int,
        parts: Sequence[Tensor | int],
        sizes: Sequence[int | float],
        height: int = 1,
        grain: int = 64,
    ) -> None:
        values = [*parts, count * height, *sizes]
        if name.startswith("rms_norm"):
            # The weight comes as its address.
            place = 1 if name == "rms_norm" else 2
            values[place] = torch.frombuffer(
                bytearray(ctypes.string_at(int(parts[place]), int(sizes[0]) * 2)), dtype=torch.bfloat16
            )
        given = [_bytes_of(value) for value in values]
        which = [field[0] for field in Training._fields_].index(name)
        message = struct.pack("<2q", which, len(given)) + b"".join(
            struct.pack("<q", len(part)) + part for part in given
        )
        told = emulate(self._driver, UNITS.index(self._unit), given=message)
        for value, part in zip(values, given, strict=True):
            if isinstance(value, Tensor):
                ctypes.memmove(value.data_ptr(), bytes(told[: len(part)]), len(part))
            del told[: len(part)]


def _bytes_of(value: Tensor | float) -> bytes:
    if isinstance(value, Tensor):
        # Rows of a wider tensor lie apart.
        rows, *others = value.shape
        length = (rows - 1) * value.stride(0) + math.prod(others)
        return ctypes.string_at(value.data_ptr(), length * value.itemsize)
    return struct.pack("<q" if isinstance(value, int) else "<f", value)


def twins_of(home: Path, unit: str, **options: object) -> Twins:
    twins = Twins(make_model(home / "tiny", **WIDE), quantizes_rows=unit not in DEQUANTIZING, **options)
    return twins


@pytest.mark.parametrize("unit", ARM_UNITS)
@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_each_unit_is_as_true_as_torch_and_its_rows_as_independent(
    driver: Path, tmp_path: Path, unit: str, quantization: str
) -> None:
    twins = twins_of(tmp_path, unit, quantization=quantization)
    arm = Arm(driver, twins, unit)
    rows = arm.answer()
    assert_as_true_as_torch(rows, answer(twins.passes("torch")), answer(twins.passes("truth")))
    assert torch.equal(rows, arm.answer(split=32))


@pytest.mark.parametrize("unit", ARM_UNITS)
def test_each_unit_computes_float32_with_an_adapter(driver: Path, tmp_path: Path, unit: str) -> None:
    twins = twins_of(tmp_path, unit, dtype=torch.float32)
    digests = (make_adapter(tmp_path / "tiny", tmp_path / "adapters", **ADAPTERS[3]),)
    truth = answer(twins.passes("truth", digests), 0)
    rows = Arm(driver, twins, unit).answer(digests)
    torch.testing.assert_close(rows, truth, rtol=2e-5, atol=2e-5 * truth.abs().max().item())


@pytest.mark.parametrize("unit", ARM_UNITS)
@pytest.mark.parametrize("number", [1, 4])
def test_each_unit_adds_what_an_adapter_changes(driver: Path, tmp_path: Path, unit: str, number: int) -> None:
    twins = twins_of(tmp_path, unit)
    digests = (make_adapter(tmp_path / "tiny", tmp_path / "adapters", **ADAPTERS[number]),)
    rows = Arm(driver, twins, unit).answer(digests)
    torch_rows, truth = (answer(twins.passes(name, digests), 0) for name in ("torch", "truth"))
    assert_as_true_as_torch(rows, torch_rows, truth)


@pytest.mark.parametrize("unit", ARM_UNITS)
def test_each_unit_weighs_the_parts_of_a_blend(driver: Path, tmp_path: Path, unit: str) -> None:
    twins, gate = twins_of(tmp_path, unit, dtype=torch.float32), GateRef("arrow")
    digests = tuple(
        make_adapter(tmp_path / "tiny", tmp_path / "adapters", seed, **ADAPTERS[number])
        for seed, number in enumerate((0, 1))
    )
    truth = answer(blended(twins, "truth", digests, gate), 0)
    rows = Arm(driver, twins, unit).answer(digests, gate=gate)
    torch.testing.assert_close(rows, truth, rtol=1e-4, atol=1e-4 * truth.abs().max().item())


@pytest.mark.parametrize("unit", ARM_UNITS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_unit_computes_what_training_does_to_rows(training_driver: Path, unit: str, name: str) -> None:
    assert_equals_its_twin(ArmElementwise(training_driver, unit), name)
