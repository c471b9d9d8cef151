"""The bounds of the code: `bin/measure.py` keeps silent about a sound house and finds each fault alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "bin" / "measure.py"
CONTRACTS = """
[tool.mypy]
overrides = [{module = "inference.*"}]
[[tool.importlinter.contracts]]
type = "layers"
containers = ["inference"]
layers = ["engine", "wire | lone"]
[[tool.importlinter.contracts]]
type = "layers"
containers = ["loraland"]
layers = ["api"]
[[tool.importlinter.contracts]]
type = "forbidden"
source_modules = ["inference.wire"]
"""


@pytest.fixture
def house(tmp_path: Path) -> Path:
    files = {
        "inference/__init__.py": "",
        "inference/lone.py": "def one():\n    return 1\n",
        "inference/engine/__init__.py": "",
        "inference/engine/step.py": "from inference.wire import words\n",
        "inference/wire/__init__.py": "",
        "inference/wire/words.py": "def two():\n    return 2\n",
        "loraland/asgi.py": "from loraland.api import views\n",
        "loraland/api/__init__.py": "",
        "loraland/api/views.py": "from inference import lone\n",
        "loraland/api/migrations/0001.py": "line\n" * 40_000,
        "pyproject.toml": CONTRACTS,
    }
    for name, text in files.items():
        write(tmp_path / name, text)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def measure(house: Path) -> tuple[int, list[str]]:
    """The exit code, and the lines of the figures that are broken."""
    done = subprocess.run([sys.executable, SCRIPT, house], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 7
    return done.returncode, [line for line in done.stdout.splitlines() if "BROKEN" in line]


def test_a_sound_house_passes(house: Path) -> None:
    assert measure(house) == (0, [])


def flat_modules(house: Path) -> None:
    names = [f"noun{number}" for number in range(6)]
    for name in names:
        write(house / f"inference/{name}.py", "")
    write(house / "pyproject.toml", CONTRACTS.replace("wire | lone", " | ".join(["wire", "lone", *names])))


def a_room_without_a_floor(house: Path) -> None:
    write(house / "inference/attic/__init__.py", "")


def an_app_without_a_layer(house: Path) -> None:
    write(house / "loraland/attic/__init__.py", "")


def many_names(house: Path) -> None:
    names = ", ".join(f'"inference.wire.word{number}"' for number in range(25))
    write(house / "pyproject.toml", CONTRACTS.replace('"inference.wire"', names))


def a_circle(house: Path) -> None:
    write(house / "inference/wire/words.py", "def late():\n    from inference.engine import step\n    return step\n")


def long_functions(house: Path) -> None:
    write(house / "inference/lone.py", "def long():\n" + "    pass\n" * 8)
    write(house / "inference/wire/words.py", "def long():\n" + "    pass\n" * 8)


def a_longest_function(house: Path) -> None:
    write(house / "inference/engine/step.py", "def long():\n" + "    pass\n" * 60)


def many_lines(house: Path) -> None:
    write(house / "inference/engine/step.py", "# a line\n" * 70_000)


@pytest.mark.parametrize(
    ("fault", "figure"),
    [
        (flat_modules, "modules of inference beside its rooms"),
        (a_room_without_a_floor, "modules outside the import contracts"),
        (an_app_without_a_layer, "modules outside the import contracts"),
        (many_names, "names of inference's modules"),
        (a_circle, "circles of imports"),
        (long_functions, "lines of a function, median"),
        (a_longest_function, "lines of a function, nine of ten"),
        (many_lines, "lines of production code"),
    ],
)
def test_each_fault_breaks_its_own_bound(house: Path, fault: Callable[[Path], None], figure: str) -> None:
    fault(house)
    code, broken = measure(house)
    assert code == 1
    assert [line.startswith(figure) for line in broken] == [True]


def test_an_import_for_types_alone_makes_no_circle(house: Path) -> None:
    text = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from inference.engine import step\n"
    write(house / "inference/wire/words.py", text + "\n\ndef two():\n    return 2\n")
    assert measure(house) == (0, [])
