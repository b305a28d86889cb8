"""Whether W&B can be used here: credentials, and a server that takes them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import requests

from search.run_folder import RunFolder
from trainers.settings import ConfigError

PROBE_S = 5.0
"""Longest wait for W&B's answer to who we are; its own client would try for minutes."""
_SAID = {"offline": "offline", "disabled": "off"}
"""What ``WANDB_MODE`` can say against going online."""
_VIEWER = {"query": "query Viewer { viewer { id } }"}


@dataclass(frozen=True)
class Trouble:
    """Why W&B cannot be used right now."""

    text: str
    """Complete for the user."""
    refused: bool = False
    """Whether the credentials are at fault, so that trying again is useless."""


@dataclass(frozen=True)
class Credentials:
    """Who we are to which server."""

    host: str
    api_key: str | None
    """None for an identity token, which W&B's own client exchanges: it will say what is wrong with that."""


class Login:
    """How W&B will be used by a search; the server is asked while the search prepares, which takes longer."""

    def __init__(self, mode: str) -> None:
        """``mode`` as in :func:`resolve_mode`, whose errors this raises."""
        credentials = _look_once() if _is_asked_for(mode) else None
        self._mode = resolve_mode(mode, credentials is not None)
        self._trouble: Trouble | None = None
        self._thread = threading.Thread(target=self._ask, args=(credentials,), name="login", daemon=True)
        self._thread.start()

    def settle(self, run: RunFolder, say: Callable[[str], None]) -> str:
        """``online``, ``offline`` or ``off``; a key that the server refuses is said, and makes it ``offline``."""
        self._thread.join(PROBE_S)
        if self._trouble is not None and self._trouble.refused:
            say(f"{self._trouble.text}. The search goes on without it; when the key is right, upload with:")
            say(f"  python -m search.sync {run.argument()}")
            return "offline"
        return self._mode

    def _ask(self, credentials: Credentials | None) -> None:
        if self._mode == "online" and credentials is not None:
            self._trouble = probe(credentials)


def resolve_mode(mode: str, logged_in: bool) -> str:
    """``auto`` becomes what ``WANDB_MODE`` says, else ``online`` when logged in, else ``offline``.

    Raises:
        ConfigError: ``online`` without being logged in.
    """
    if not _is_asked_for(mode):
        return _SAID[os.environ["WANDB_MODE"]] if mode == "auto" else mode
    if mode == "online" and not logged_in:
        raise ConfigError(
            "tracking.mode=online, but nobody is logged in to W&B here. Run 'wandb login', set WANDB_API_KEY, "
            "or use tracking.mode=offline."
        )
    return "online" if logged_in else "offline"


def _is_asked_for(mode: str) -> bool:
    """Whether the server matters at all."""
    return mode == "online" or (mode == "auto" and os.environ.get("WANDB_MODE") not in _SAID)


def _look_once() -> Credentials | None:
    """:func:`find_credentials` in a process that uses no W&B itself."""
    import wandb  # noqa: PLC0415 - takes most of a second, and a search may do without.

    try:
        return find_credentials()
    finally:
        wandb.teardown()  # Ends the service that looking at its settings began.


def find_credentials() -> Credentials | None:
    """What the environment or a netrc file has for the W&B server in use; asks no server.

    Raises:
        ConfigError: a key that cannot be one.
    """
    import wandb  # noqa: PLC0415 - as above
    from wandb.sdk.lib import wbauth  # noqa: PLC0415

    host = wandb.setup(wandb.Settings(silent=True)).settings.base_url
    try:
        found = wbauth.authenticate_session(host=host, source="search", prompt=False)
    except wandb.errors.AuthenticationError as error:
        raise ConfigError(
            f"The W&B credentials found here cannot be right: {error}. Use tracking.mode=offline?"
        ) from error
    if found is None:
        return None
    return Credentials(str(found.host), found.api_key if isinstance(found, wbauth.AuthApiKey) else None)


def require_credentials() -> Credentials:
    """As :func:`find_credentials`, where there must be some.

    Raises:
        ConfigError: nobody is logged in.
    """
    credentials = find_credentials()
    if credentials is None:
        raise ConfigError("Nobody is logged in to W&B here. Run 'wandb login', or set WANDB_API_KEY.")
    return credentials


def probe(credentials: Credentials) -> Trouble | None:
    """Ask the W&B server who we are; none when it knows us."""
    host = credentials.host
    if credentials.api_key is None:
        return None
    try:
        answer = requests.post(
            f"{host}/graphql", json=_VIEWER, auth=("api", credentials.api_key), timeout=PROBE_S, allow_redirects=False
        )
    except requests.Timeout:
        return Trouble(f"W&B at {host} did not answer within {PROBE_S:g} s")
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


def _cause(error: BaseException) -> str:
    """The innermost reason of a failed request, as the operating system words it."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
