"""The decoder on ARM: compiled by a cross compiler, run in an emulator, and held against torch's answers."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inference.decoders.native.bank import NativeBank
from inference.decoders.native.build import FLAGS, SOURCES, compile_units, missing_feature, units_of
from inference.decoders.native.library import UNITS
from tests.inference.checkpoints import make_adapter, make_model
from tests.inference.decoders.native.image import Recorder
from tests.inference.decoders.native.test_native_decoder import (
    ADAPTERS,
    DEQUANTIZING,
    WIDE,
    Twins,
    answer,
    assert_as_true_as_torch,
)

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
LACKING = [name for name in (COMPILER, EMULATOR) if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING) or missing_feature() is not None, reason=f"not here: {', '.join(LACKING)}"),
]
ARM_UNITS = list(units_of("aarch64"))


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("arm")
    compile_units([COMPILER], units_of("aarch64"), home / "decoder.so")
    source = Path(__file__).with_name("driver.cpp")
    command = [COMPILER, *FLAGS, f"-I{SOURCES}", str(source), str(home / "decoder.so"), f"-Wl,-rpath,{home}"]
    subprocess.run([*command, "-o", str(home / "driver")], check=True)
    return home / "driver"


@cache
def root_of(compiler: str) -> str:
    """Where the libraries of the other processor lie."""
    run = subprocess.run([compiler, "-print-sysroot"], capture_output=True, text=True, check=True)
    return run.stdout.strip().rstrip("/") or "/usr/aarch64-linux-gnu"


class Arm:
    """The passes of `twins` as an ARM processor computes them."""

    def __init__(self, driver: Path, twins: Twins, unit: str) -> None:
        self._driver, self._twins, self._unit = driver, twins, unit

    def answer(self, digests: tuple[str, ...] = (), split: int = 71) -> Tensor:
        passes = self._twins.passes("native", digests)
        native = self._twins.native
        assert isinstance(native.bank, NativeBank)
        recorder, library = Recorder(native, native.bank), native._library._library
        rows = answer(passes, 0 if digests else -1, split=split)
        native._library = library
        path = self._driver.with_name("image")
        recorder.write(path, native.view)
        return self._run(path)[:, : rows.shape[1]]

    def _run(self, path: Path) -> Tensor:
        command = [EMULATOR, "-cpu", "max", "-L", root_of(COMPILER), str(self._driver), str(path)]
        run = subprocess.run([*command, str(UNITS.index(self._unit))], capture_output=True, check=True)
        return torch.frombuffer(bytearray(run.stdout), dtype=torch.float32).view(84, -1)


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
