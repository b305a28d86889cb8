"""``python -m cluster.wait <host>:<port> NODES SECONDS``: wait until a cluster has that many nodes."""

from __future__ import annotations

import sys
import time

from cluster.authentication import show_token
from cluster.nodes import ClusterError


def main() -> None:
    """Entry point; exit code 2 and one line when the nodes do not come."""
    address, wanted, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    try:
        show_token()
        wait_for_nodes(address, wanted, seconds)
    except ClusterError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def wait_for_nodes(address: str, wanted: int, seconds: float) -> None:
    """Return once the cluster at ``address`` has ``wanted`` nodes.

    Raises:
        ClusterError: it has fewer after ``seconds``.
    """
    from cluster.connect import alive_nodes, connect  # noqa: PLC0415 - imports Ray, which reads the token once

    deadline = time.monotonic() + seconds
    with connect(address):
        while (joined := len(alive_nodes())) < wanted:
            if time.monotonic() > deadline:
                raise ClusterError(f"Only {joined} of {wanted} nodes joined the Ray cluster within {seconds:g} s.")
            time.sleep(0.5)


if __name__ == "__main__":
    main()
