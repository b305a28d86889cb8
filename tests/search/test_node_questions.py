"""Every node of a cluster is asked, also where two offer the same."""

from __future__ import annotations

import threading

from cluster.connect import connect
from cluster.nodes import Node
from search.node_questions import ask_nodes, describe_answers


def test_of_nodes_that_are_alike_each_is_asked() -> None:
    def refuse_first(name: str) -> str | None:
        return "refuses" if name == "first" else None

    with connect(None) as (here,):
        nodes = [Node(here.cpus, here.gpus, name, here.node_id) for name in ("first", "second")]
        head = Node(0, 0, "head", here.node_id)
        answers = ask_nodes([head, *nodes], refuse_first, lambda node: (node.name,), 60)
    assert [(node.name, why) for node, why in answers] == [("first", "refuses"), ("second", None)]
    assert describe_answers(answers) == "first refuses"


def test_a_node_that_fails_or_is_slow_is_named_with_the_others() -> None:
    def answer(name: str) -> str | None:
        if name == "broken":
            raise ValueError("no such thing")
        if name == "slow":
            threading.Event().wait()
        return None

    with connect(None) as (here,):
        nodes = [Node(here.cpus, here.gpus, name, here.node_id) for name in ("broken", "slow", "well")]
        answers = ask_nodes(nodes, answer, lambda node: (node.name,), 12)
    assert [(node.name, why) for node, why in answers] == [
        ("broken", "says ValueError: no such thing"),
        ("slow", "does not answer"),
        ("well", None),
    ]
