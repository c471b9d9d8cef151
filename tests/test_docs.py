"""What the README says must be what the code does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPO = Path(__file__).parents[1]
README = (REPO / "README.md").read_text()
READERS = {
    "loraland/settings.py": r"environment\.\w+\(\s*\"([A-Z_]+)\"",
    "inference/config.py": r"env\.\w+\(\s*\"([A-Z_]+)\"",
    "inference/model/torch_environment.py": r"\"([A-Z]+_[A-Z]+)\"",
}


def documented() -> set[str]:
    rows = [line.split("|")[1] for line in README.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}


def read_by_the_code() -> set[str]:
    return {name for path, call in READERS.items() for name in re.findall(call, (REPO / path).read_text())}


def test_every_variable_is_documented_and_every_documented_one_is_read() -> None:
    assert documented() == read_by_the_code()


def reads_the_environment(source: str) -> bool:
    """Whether the code looks a variable up; passing the whole environment on, or setting one, is not reading."""
    looks = [ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    looks += [f"{ast.unparse(node.value)}[]" for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Subscript)]
    return not {"os.environ.get", "os.getenv", "os.environ[]"}.isdisjoint(looks)


def test_no_other_module_of_the_site_or_the_worker_reads_the_environment() -> None:
    modules = [path for house in ("loraland", "inference") for path in (REPO / house).rglob("*.py")]
    offenders = {str(path.relative_to(REPO)) for path in modules if reads_the_environment(path.read_text())}
    assert offenders == {"loraland/environment.py"}


def test_every_command_and_file_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"make (\w+)", README))
    makefile = (REPO / "Makefile").read_text()
    assert {target for target in targets if f"\n{target}:" not in makefile} == set()
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert [link for link in links if not (REPO / link).exists()] == []


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    version = re.search(r'^version = "(.+)"', (REPO / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert f"## {version.group(1)}" in (REPO / "CHANGELOG.md").read_text()
