"""Imports point one way: integrations, the core, connectors, storage."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INTEGRATIONS = ("proxyflow_futures", "proxyflow_dask")

# What everything above storage may use.
FOUNDATION = (
    "proxyflow.errors",
    "proxyflow.forking",
    "proxyflow.periodic",
    "proxyflow.sizes",
)

# Which modules of ours the files of a folder may import.
ALLOWED = {
    "proxyflow/storage": ("proxyflow.storage",),
    "proxyflow/connectors": ("proxyflow.storage", "proxyflow.connectors", *FOUNDATION),
    "proxyflow": ("proxyflow",),
}


def files_of(folder: str) -> Iterator[Path]:
    """Yield the files of a folder that no narrower rule is for."""
    narrower = [ROOT / other for other in ALLOWED if other != folder and other.startswith(folder)]
    for path in sorted((ROOT / folder).rglob("*.py")):
        if not any(path.is_relative_to(other) for other in narrower):
            yield path


def package_of(path: Path, level: int) -> str:
    """Return the package that an import with so many leading dots starts from."""
    return ".".join(path.relative_to(ROOT).parts[:-level]) if level else ""


def imported(path: Path) -> Iterator[str]:
    """Yield every module of ours that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, [package_of(path, node.level), node.module]))
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in ("proxyflow", *INTEGRATIONS))


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_point_one_way(folder: str) -> None:
    """Storage can be lifted out and used alone, and the core knows of no integration."""
    allowed = ALLOWED[folder]
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files_of(folder)
        for name in imported(path)
        if not any(name == module or name.startswith(f"{module}.") for module in allowed)
    ]
    assert not wrong
