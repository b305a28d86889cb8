"""Whether the nodes of a cluster see the run's folder, which trials there read and write."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.nodes import ClusterError, Node
from search.node_questions import LIMIT_S, ask_nodes, describe_answers

_ASK_S = 0.5


def require_shared_folder(folder: Path, nodes: Sequence[Node], limit_s: float = LIMIT_S) -> None:
    """Let every node that could train read a file of this process, and write one that this process reads.

    Args:
        folder: of the run.
        nodes: of the cluster; a single one needs no folder that is shared.
        limit_s: for all nodes together.

    Raises:
        ClusterError: naming the nodes that do not see the folder as this process does, and what each said.
    """
    if len(nodes) < 2:
        return
    probe, word = folder / f".probe-{secrets.token_hex(8)}", secrets.token_hex(16)

    def answer_of(node: Node) -> Path:
        return folder / f"{probe.name}-{node.node_id}"

    deadline = time.monotonic() + limit_s
    try:
        probe.write_text(word)
        answers = ask_nodes(nodes, _answer, lambda node: (probe, answer_of(node), word, limit_s / 2), limit_s)
        blind = describe_answers([(node, why or _wait_for(answer_of(node), word, deadline)) for node, why in answers])
    finally:
        for file in folder.glob(".probe-*"):  # Those, too, that a search left which was killed here.
            file.unlink(missing_ok=True)
    if blind:
        raise ClusterError(
            f"Not all nodes see the run's folder {folder}: {blind}. Every node writes checkpoints there: "
            "set runs=<folder> to one that all nodes share, or storage=<URI> to keep results and checkpoints elsewhere."
        )


def _answer(probe: Path, answer: Path, word: str, limit_s: float) -> str | None:
    """On a node: what is wrong, None if the probe is there and the answer was written."""
    why = _wait_for(probe, word, time.monotonic() + limit_s)
    if why is None:
        try:
            answer.write_text(word)
        except OSError as error:
            why = f"says {error}"
    return why


def _wait_for(file: Path, word: str, deadline: float) -> str | None:
    """Why ``file`` cannot be read, None once it holds ``word``; network file systems may show it late."""
    while True:
        try:
            why = None if file.read_text() == word else f"says that {file} holds something else"
        except OSError as error:
            why = f"says {error}"
        if why is None or time.monotonic() > deadline:
            return why
        time.sleep(_ASK_S)
