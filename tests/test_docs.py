"""What the documents say must be what the code does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
SETTINGS = (REPO / "docs" / "settings.md").read_text()
DECISIONS = sorted((REPO / "docs" / "decisions").glob("[!R]*.md"))
DOCUMENTS = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]
STATUS = re.compile(r".+\n\n\d{4}-\d\d-\d\d · Status: (in force|overtaken by “.+”)")
READERS = {
    "loraland/settings.py": r"environment\.\w+\(\s*\"([A-Z_]+)\"",
    "inference/bases.py": r"environ\.get\(\"([A-Z_]+)\"",
    "inference/config.py": r"env\.\w+\(\s*\"([A-Z_]+)\"",
    "inference/cluster/settings.py": r"env\.\w+\(\s*\"([A-Z_]+)\"",
    "inference/model/torch_environment.py": r"\"([A-Z]+_[A-Z]+)\"",
}


def documented() -> set[str]:
    rows = [line.split("|")[1] for line in SETTINGS.splitlines() if line.startswith("| `")]
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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))
def test_every_command_and_file_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    makefile = (REPO / "Makefile").read_text()
    assert {target for target in re.findall(r"make ([a-z-]+)`", text) if f"\n{target}:" not in makefile} == set()
    links = re.findall(r"\]\((?!http|#)([^)#]+)", text)
    assert [link for link in links if not (document.parent / link).exists()] == []
    paths = re.findall(r"`((?:inference|loraland|tests|bin|docs)/[\w./-]+)`", text)
    assert [path for path in paths if not (REPO / path).exists()] == []


@pytest.mark.parametrize("document", DECISIONS, ids=lambda path: path.stem)
def test_every_decision_says_when_it_was_made_and_whether_it_is_in_force(document: Path) -> None:
    entries = document.read_text().split("\n## ")[1:]
    assert entries
    assert [entry for entry in entries if not STATUS.match(entry)] == []


def test_what_overtook_a_decision_is_a_decision_too() -> None:
    text = "\n".join(document.read_text() for document in DECISIONS)
    titles = set(re.findall(r"^## (.+)$", text, re.MULTILINE))
    statuses = re.findall(r"^\d.+ · (Status: .+)$", text, re.MULTILINE)
    named = {title for status in statuses for title in re.findall("“([^”]{20,})”", status)}
    assert named <= titles


def test_every_file_of_decisions_is_in_their_index() -> None:
    index = (REPO / "docs/decisions/README.md").read_text()
    assert set(re.findall(r"\]\((\w[\w-]*\.md)\)", index)) == {document.name for document in DECISIONS}


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    version = re.search(r'^version = "(.+)"', (REPO / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert f"## {version.group(1)}" in (REPO / "CHANGELOG.md").read_text()
