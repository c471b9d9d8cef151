"""The modules of both houses and what they import, as their files say it: for the scripts that measure and draw."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

HOUSES: Final = ("inference", "loraland")


@dataclass(frozen=True)
class Module:
    name: str
    path: Path

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)


def modules(repo: Path) -> dict[str, Module]:
    """Every module of both houses by its name; migrations are made by a command and left out."""
    paths = [
        path for house in HOUSES for path in sorted((repo / house).rglob("*.py")) if "migrations" not in path.parts
    ]
    return {name: Module(name, path) for path in paths for name in [_name(path.relative_to(repo))]}


def imports(module: Module, known: dict[str, Module]) -> set[str]:
    """The modules among `known` that `module` imports, inside functions too; but not for its types alone."""
    found = set()
    for node in _running(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {_source(node.module or "", alias.name, known) for alias in node.names}
    return (found & known.keys()) - {module.name}


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _running(node)


def _source(package: str, name: str, known: dict[str, Module]) -> str:
    whole = f"{package}.{name}"
    return whole if whole in known else package


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
