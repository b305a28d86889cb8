"""Whether W&B can be used: what the environment says, and what the server answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from wandb_server import WandbServer

from search.run_folder import RunFolder
from search.tracking.login import Credentials, Login, probe, resolve_mode
from trainers.settings import ConfigError


@pytest.mark.parametrize(
    ("mode", "variable", "logged_in", "expected"),
    [
        ("auto", None, True, "online"),
        ("auto", None, False, "offline"),
        ("auto", "offline", True, "offline"),
        ("auto", "disabled", True, "off"),
        ("auto", "online", True, "online"),
        ("online", "offline", True, "online"),
        ("offline", "disabled", True, "offline"),
        ("off", None, True, "off"),
    ],
)
def test_mode(monkeypatch: pytest.MonkeyPatch, mode: str, variable: str | None, logged_in: bool, expected: str) -> None:
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)
    assert resolve_mode(mode, logged_in) == expected


def test_online_without_a_login_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"nobody is logged in to W&B here\. Run 'wandb login'"):
        Login("online")


def test_a_key_that_cannot_be_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(ConfigError, match="cannot be right"):
        Login("auto")


def test_the_server_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    with WandbServer() as server:
        assert probe(Credentials(server.url, server.api_key)) is None
        assert probe(Credentials(server.url, None)) is None
        refused = probe(Credentials(server.url, "f" * 40))
        assert refused is not None
        assert refused.refused
        for name, value in (server.environment() | {"WANDB_API_KEY": "f" * 40}).items():
            monkeypatch.setenv(name, value)
        said: list[str] = []
        assert Login("auto").settle(RunFolder(Path("runs/mine").absolute()), said.append) == "offline"
        assert "refuses the API key found here (HTTP 401)" in said[0]
        assert said[1].endswith("search.sync run=mine")
