"""The token that a search shows to a running cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.authentication import show_token
from cluster.nodes import ClusterError


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_token_nothing_is_shown() -> None:
    show_token()
    assert "RAY_AUTH_MODE" not in os.environ


def test_a_token_in_the_environment_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    show_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize("name", ["given", ".ray/auth_token"])
def test_a_token_in_a_file_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("secret\n")
    if name == "given":
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / name))
    show_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_a_mode_that_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    show_token()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


@pytest.mark.parametrize(("content", "problem"), [(None, "No such file or directory"), (" \n", "it is empty")])
def test_a_file_without_a_token_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, problem: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    with pytest.raises(ClusterError, match=f"RAY_AUTH_TOKEN_PATH={file} should be a file .*: {problem}"):
        show_token()


def test_a_mode_without_a_token_says_where_to_put_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ClusterError, match="there is no token"):
        show_token()
