"""Who may submit work to a Ray cluster can run code as its user: so a cluster started for a search has a token."""

from __future__ import annotations

import os
import secrets


def authenticate_local_cluster() -> None:
    """Give the cluster that this process is going to start a token that only its own processes know.

    Call it before Ray is imported, which reads the mode once. A mode that the user set stays. Left unset, Ray would
    keep a token in the home folder, which silently changes how clusters started there later behave.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
