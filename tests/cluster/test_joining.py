"""Joining a running cluster from the command line, with its token, without one, and with another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_search import SETTINGS, Place
from ray_nodes import RayNodes, ray_nodes

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    with ray_nodes(tmp_path_factory.mktemp("marks") / "marks", workers=1) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def stranger(nodes: RayNodes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of somebody who has no token."""
    known = {name: value for name, value in nodes.environment.items() if not name.startswith("RAY_AUTH")}
    return known | {"HOME": str(tmp_path_factory.mktemp("home"))}


def waits(environment: dict[str, str], address: str, nodes: int) -> tuple[int, str]:
    """Exit code and message of one who waits for the nodes of a cluster."""
    command = [sys.executable, "-m", "cluster.wait", address, str(nodes), "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr.strip()


def test_who_has_the_token_joins(nodes: RayNodes) -> None:
    assert waits(nodes.environment, nodes.address, 2) == (0, "")


def test_a_token_in_a_file_will_do(nodes: RayNodes, stranger: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text(nodes.environment["RAY_AUTH_TOKEN"])
    assert waits(stranger | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}, nodes.address, 1) == (0, "")


def test_too_few_nodes_are_counted(nodes: RayNodes) -> None:
    code, message = waits(nodes.environment, nodes.address, 3)
    assert (code, message) == (2, "Only 2 of 3 nodes joined the Ray cluster within 1 s.")


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ({}, "it wants a token, and RAY_AUTH_MODE is not set"),
        ({"RAY_AUTH_MODE": "disabled"}, "it wants a token, and RAY_AUTH_MODE is disabled"),
        ({"RAY_AUTH_TOKEN": "another"}, "this is not its token"),
    ],
)
def test_who_has_not_is_told_so(nodes: RayNodes, stranger: dict[str, str], token: dict[str, str], problem: str) -> None:
    code, message = waits(stranger | token, nodes.address, 1)
    assert code == 2
    assert "Traceback" not in message
    assert f"The Ray cluster at cluster.address={nodes.address} refuses the search: {problem}." in message
    assert "RAY_AUTH_TOKEN_PATH" in message


def test_a_search_without_the_token_ends_before_it_began(
    nodes: RayNodes, stranger: dict[str, str], tmp_path: Path
) -> None:
    place = Place.made(tmp_path, stranger)
    with place.started(*SETTINGS, *nodes.settings, "run=refused") as driver:
        assert driver.end() == 2
        assert "refuses the search: it wants a token" in driver.output()
    assert not place.run("refused").path.exists()
