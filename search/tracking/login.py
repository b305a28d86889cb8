"""Whether W&B can be used here: credentials, and a server that takes them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import requests
import wandb
from wandb.sdk.lib import wbauth

from trainers.settings import ConfigError

PROBE_S = 5.0
"""Longest wait for W&B's answer to who we are; its own client would try for minutes."""
_VIEWER = {"query": "query Viewer { viewer { id } }"}


@dataclass(frozen=True)
class Trouble:
    """Why W&B cannot be used right now."""

    text: str
    """Complete for the user."""
    refused: bool = False
    """Whether the credentials are at fault, so that trying again is useless."""


class Login:
    """How W&B will be used by a search; the server is asked while the search prepares, which takes longer."""

    def __init__(self, mode: str) -> None:
        """``mode`` as in :func:`resolve_mode`, whose errors this raises."""
        self._mode = resolve_mode(mode)
        self._trouble: Trouble | None = None
        self._thread = threading.Thread(target=self._ask, name="login", daemon=True)
        if self._mode == "online":
            self._thread.start()

    def settle(self, run: str, say: Callable[[str], None]) -> str:
        """``online``, ``offline`` or ``off``; a key that the server refuses is said, and makes it ``offline``."""
        if self._mode == "online":
            self._thread.join(PROBE_S)
            if self._trouble is not None and self._trouble.refused:
                say(f"{self._trouble.text}. The search goes on without it; when the key is right, upload with:")
                say(f"  python -m search.sync run={run}")
                return "offline"
        return self._mode

    def _ask(self) -> None:
        self._trouble = probe()


def resolve_mode(mode: str) -> str:
    """``auto`` becomes what ``WANDB_MODE`` says, else ``online`` when logged in, else ``offline``; asks no server.

    Raises:
        ConfigError: ``online`` without being logged in, or a key that cannot be one.
    """
    wished = os.environ.get("WANDB_MODE")
    if mode == "auto" and wished in ("offline", "disabled"):
        mode = "offline" if wished == "offline" else "off"
    if mode in ("off", "offline"):
        return mode
    logged_in = _credentials() is not None
    if mode == "online" and not logged_in:
        raise ConfigError(
            "tracking.mode=online, but nobody is logged in to W&B here. Run 'wandb login', set WANDB_API_KEY, "
            "or use tracking.mode=offline."
        )
    if mode == "auto":
        return "online" if logged_in else "offline"
    return mode


def require_login() -> None:
    """Refuse to go on where nobody is logged in.

    Raises:
        ConfigError: saying how to log in.
    """
    if _credentials() is None:
        raise ConfigError("Nobody is logged in to W&B here. Run 'wandb login', or set WANDB_API_KEY.")


def probe(timeout_s: float = PROBE_S) -> Trouble | None:
    """Ask the W&B server who we are; none when it knows us."""
    credentials = _credentials()
    if not isinstance(credentials, wbauth.AuthApiKey):
        return None  # Identity tokens are exchanged by W&B's own client: it will say what is wrong with them.
    host = str(credentials.host)
    try:
        answer = requests.post(
            f"{host}/graphql", json=_VIEWER, auth=("api", credentials.api_key), timeout=timeout_s, allow_redirects=False
        )
    except requests.Timeout:
        return Trouble(f"W&B at {host} did not answer within {timeout_s:g} s")
    except requests.RequestException as error:
        return Trouble(f"W&B at {host} cannot be reached ({_cause(error)})")
    return _verdict(host, answer)


def _verdict(host: str, answer: requests.Response) -> Trouble | None:
    if answer.status_code in (401, 403):
        return Trouble(f"W&B at {host} refuses the API key found here (HTTP {answer.status_code})", refused=True)
    if not answer.ok:
        return Trouble(f"W&B at {host} answers with HTTP {answer.status_code} {answer.reason}".rstrip())
    if _is_nobody(answer):
        return Trouble(f"W&B at {host} does not know the API key found here", refused=True)
    return None


def _is_nobody(answer: requests.Response) -> bool:
    """Whether the server says that the key is no one's."""
    try:
        data = answer.json().get("data") or {}
    except (requests.JSONDecodeError, AttributeError):
        return False
    return "viewer" in data and data["viewer"] is None


def _credentials() -> wbauth.Auth | None:
    """What the environment or a netrc file has for the W&B server in use."""
    host = wandb.setup(wandb.Settings(silent=True)).settings.base_url
    try:
        return wbauth.authenticate_session(host=host, source="search", prompt=False)
    except wandb.errors.AuthenticationError as error:
        raise ConfigError(
            f"The W&B credentials found here cannot be right: {error}. Use tracking.mode=offline?"
        ) from error


def _cause(error: BaseException) -> str:
    """The innermost reason of a failed request, as the operating system words it."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
