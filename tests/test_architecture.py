"""The arrows between the packages: search uses spaces, trainers and cluster, which know nothing of each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("cluster", "search", "spaces", "trainers", "tests")
MAY_USE = {
    "spaces": {"spaces"},
    "trainers": {"trainers"},
    "cluster": {"cluster"},
    "search": {"search", "spaces", "trainers", "cluster"},
}
MUST_NOT_USE = {
    "trainers": {"ray", "optuna", "wandb", "hydra"},
    "spaces": {"ray", "wandb", "torch", "hydra"},
    "cluster": {"optuna", "wandb", "torch", "hydra"},
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """Top-level names that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            assert node.module
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", MAY_USE)
def test_arrows_go_one_way(package: str) -> None:
    assert len(modules(package)) >= 2
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in modules(package)
        for name in imported(file)
        if (name in OURS and name not in MAY_USE[package]) or name in MUST_NOT_USE.get(package, ())
    ]
    assert wrong == []


def test_all_arrows_of_the_search_are_there() -> None:
    """The reading of imports sees what there is to see."""
    assert {name for file in modules("search") for name in imported(file)} > {"search", "spaces", "trainers", "cluster"}


@pytest.mark.parametrize("package", MAY_USE)
def test_every_module_says_its_role(package: str) -> None:
    silent = [file.name for file in modules(package) if not ast.get_docstring(ast.parse(file.read_text()))]
    assert silent == []


@pytest.mark.parametrize("package", MAY_USE)
def test_no_file_outgrows_a_reader(package: str) -> None:
    lengths = {file.name: len(file.read_text().splitlines()) for file in modules(package)}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
