"""Who may submit work to a Ray cluster can run code as its user: so clusters have a token, and searches show it.

Ray reads the environment once, when it is imported: call these functions before.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cluster.nodes import ClusterError


def authenticate_local_cluster() -> None:
    """Give the cluster that this process is going to start a token that only its own processes know.

    A mode that the user set stays. Left unset, Ray would keep a token in the home folder, which silently changes how
    clusters started there later behave.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def show_token() -> None:
    """Show a running cluster the user's token, where there is one; Ray itself does so only with ``RAY_AUTH_MODE``.

    A cluster that wants no token does not mind one.

    Raises:
        ClusterError: a token is announced, but there is none; Ray would crash.
    """
    file = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if file is not None:
        _require_token_in(Path(file))
    home = Path.home() / ".ray" / "auth_token"  # where `ray get-auth-token --generate` puts it
    if os.environ.get("RAY_AUTH_TOKEN") or file is not None or home.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    elif os.environ.get("RAY_AUTH_MODE") == "token":
        raise ClusterError(
            "RAY_AUTH_MODE=token, but there is no token. Set RAY_AUTH_TOKEN_PATH to a file with the token of the "
            "cluster, or RAY_AUTH_TOKEN to the token itself."
        )


def _require_token_in(file: Path) -> None:
    try:
        problem = None if file.read_text().strip() else "it is empty"
    except OSError as error:
        problem = error.strerror
    if problem is not None:
        raise ClusterError(f"RAY_AUTH_TOKEN_PATH={file} should be a file with the token of the cluster: {problem}.")
