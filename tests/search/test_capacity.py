"""What a cluster has room for, what is said while it has none, and which trials start again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from cluster.nodes import Node
from search import capacity
from search.capacity import NOTICE_S, REPEAT_S, Capacity, Patience, describe_nodes
from search.resources import Share, fits
from search.retries import PROCESS_RETRIES, Retries
from trainers.distributed import WorkerLostError

LAPTOP, WORKSTATION, SERVER = Node(2, 0), Node(16, 1), Node(64, 8)
CORE, WHOLE, QUARTER = Share(1, 0, 1), Share(8, 1, 1), Share(2, 0.25, 1)


@pytest.mark.parametrize(
    ("nodes", "shares", "room"),
    [
        ([LAPTOP], {CORE: 2}, True),
        ([LAPTOP], {CORE: 3}, False),
        ([], {CORE: 1}, False),
        ([WORKSTATION], {QUARTER: 4}, True),
        ([WORKSTATION], {QUARTER: 5}, False),
        ([SERVER], {WHOLE: 7, QUARTER: 4}, True),
        ([SERVER], {WHOLE: 7, QUARTER: 5}, False),
        ([SERVER], {WHOLE: 8, CORE: 1}, False),
        ([SERVER, LAPTOP], {WHOLE: 8, CORE: 2}, True),
        # Three parts of 0.4 do not make do with two GPUs that have 0.6 left each.
        ([Node(64, 2)], {Share(1, 0.4, 1): 4}, True),
        ([Node(64, 2)], {Share(1, 0.4, 1): 5}, False),
        ([Node(64, 1)], {Share(1, 0.3333, 1): 3}, True),
        # The workers of one trial may lie on several nodes.
        ([LAPTOP, LAPTOP], {Share(1, 0, 1, workers=4): 1}, True),
        ([LAPTOP, LAPTOP], {Share(1, 0, 1, workers=3): 1, CORE: 2}, False),
    ],
)
def test_trials_of_different_shares_are_placed_together(
    nodes: list[Node], shares: dict[Share, int], room: bool
) -> None:
    assert fits(nodes, shares) == room


def test_nodes_that_come_and_go_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "REFRESH_S", -1.0)
    there = [LAPTOP]
    known = Capacity(lambda: there)
    assert not known.has_room({WHOLE: 1})
    there.append(WORKSTATION)
    assert known.has_room({WHOLE: 1})
    there.clear()
    assert not known.has_room({CORE: 1})


def test_the_cluster_is_not_asked_at_every_step() -> None:
    asked: list[int] = []
    known = Capacity(lambda: asked.append(1) or [LAPTOP])  # type: ignore[func-returns-value]
    assert all(known.has_room({CORE: 1}) for _ in range(100))
    assert len(asked) == 1


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def patience_on(nodes: list[Node], patience_s: float | None, clock: Clock) -> tuple[Patience, list[str]]:
    said: list[str] = []
    return Patience(said.append, patience_s, Capacity(lambda: nodes), clock), said


def wait(patience: Patience, clock: Clock, seconds: float, share: Share | None = WHOLE) -> None:
    end = clock.now_s + seconds
    while clock.now_s < end:
        clock.now_s += 1.0
        patience.look(share)


def test_a_wait_for_a_node_is_told_with_what_is_missing_and_seldom(clock: Clock) -> None:
    patience, said = patience_on([LAPTOP, LAPTOP, Node(4, 0)], None, clock)
    wait(patience, clock, NOTICE_S)
    assert said == []
    wait(patience, clock, REPEAT_S - 1)
    assert said == [
        "What is next needs 8 CPU cores and 1 GPU, but no nodes have that: there are 2 nodes of 2 cores, 1 node of 4 "
        "cores. The search waits; cluster.patience_s would limit that."
    ]
    wait(patience, clock, REPEAT_S)
    assert len(said) == 2
    patience.look(None)
    assert said[-1] == "There is room again after 60 min; the search goes on."
    patience.look(None)
    assert len(said) == 3
    assert patience.gave_up is None


def test_a_short_wait_is_not_worth_a_word(clock: Clock) -> None:
    patience, said = patience_on([LAPTOP], 60, clock)
    for _ in range(20):
        wait(patience, clock, NOTICE_S - 1)
        patience.look(None)
    assert said == []
    assert patience.gave_up is None


def test_patience_ends(clock: Clock) -> None:
    patience, said = patience_on([WORKSTATION], 30, clock)
    wait(patience, clock, 29)
    assert patience.gave_up is None
    assert said == [
        "What is next needs 8 CPU cores and 1 GPU, but other work has taken what the nodes have: there is 1 node of "
        "16 cores and 1 GPU. The search waits for 20 s more at most."
    ]
    wait(patience, clock, 2)
    assert patience.gave_up is not None
    assert patience.gave_up.startswith("Nothing could start for 30 s, as long as cluster.patience_s allows.")


def test_an_empty_cluster_is_told_as_such() -> None:
    assert describe_nodes([]) == "are no nodes"


DIED = RayActorError(error_msg="The actor died.\n\tpid: 7\nThe actor is dead because its worker process has died.")
WITH_NODE = RayActorError(error_msg="The actor died.\nThe actor died because its node has died. Node Id: 12.")
PREEMPTED = RayActorError(preempted=True)
UNAVAILABLE = ActorUnavailableError("Socket closed", None)


def raised(text: str) -> RayTaskError:
    """As Tune has what the trial's actor raised."""
    cause = WorkerLostError(text)
    return RayTaskError("train", f"Traceback\nWorkerLostError: {text}", cause)  # type: ignore[no-untyped-call]


WORKER_GONE = raised("Another worker of the trial is gone or does not answer")


def retries(lost: Callable[[], frozenset[str]] = frozenset) -> Retries:
    return Retries(lost)


def test_a_process_that_dies_every_time_fails_the_trial_and_the_cause_is_named() -> None:
    counted = retries()
    assert [counted.process_lost("t0000", CORE, DIED) for _ in range(PROCESS_RETRIES)] == [None] * PROCESS_RETRIES
    assert counted.process_lost("t0001", CORE, DIED) is None
    reason = counted.process_lost("t0000", CORE, DIED)
    assert reason == (
        "The trial's process died 3 times, the last time so: The actor is dead because its worker process has died."
    )


@pytest.mark.parametrize("error", [WITH_NODE, PREEMPTED], ids=["died", "preempted"])
def test_the_loss_of_a_node_is_not_the_trials_fault(error: RayActorError) -> None:
    counted = retries()
    assert {counted.process_lost("t0000", CORE, error) for _ in range(20)} == {None}
    assert [counted.process_lost("t0000", CORE, DIED) for _ in range(PROCESS_RETRIES)] == [None] * PROCESS_RETRIES
    assert counted.process_lost("t0000", CORE, DIED) is not None


@pytest.mark.parametrize("error", [UNAVAILABLE, WORKER_GONE], ids=["trial", "worker"])
def test_a_broken_connection_is_a_nodes_if_one_was_lost_since(error: Exception) -> None:
    lost: list[str] = []
    counted = retries(lambda: frozenset(lost))
    for number in range(20):
        assert counted.process_lost("t0000", CORE, error) is None
        lost.append(str(number))
    assert [counted.process_lost("t0000", CORE, error) for _ in range(1 + PROCESS_RETRIES)] == [None] * 3
    assert counted.process_lost("t0000", CORE, error) is not None


def test_a_process_that_cuda_ends_for_want_of_memory_is_out_of_memory() -> None:
    counted = retries()
    broken = RayTaskError("train", "Traceback\nAcceleratorError: CUDA error: out of memory", RuntimeError())  # type: ignore[no-untyped-call]
    assert counted.process_lost("t0000", QUARTER, broken) is None
    assert counted.share("t0000", QUARTER).gpus == 0.5
    reason = counted.process_lost("t0000", counted.share("t0000", QUARTER), broken)
    assert reason is not None
    assert reason.startswith("Out of GPU memory with 0.25 of a GPU, and again with 0.5.")


@pytest.mark.parametrize("lost", [0, 5])
def test_the_death_of_a_worker_counts_and_the_loss_of_its_node_does_not(lost: int) -> None:
    counted = retries()
    assert [counted.process_lost("t0000", CORE, raised(f"A worker died: {WITH_NODE}")) for _ in range(lost)] == [
        None
    ] * lost
    died = raised(f"A worker died: {DIED}")
    assert [counted.process_lost("t0000", CORE, died) for _ in range(PROCESS_RETRIES)] == [None] * PROCESS_RETRIES
    assert counted.process_lost("t0000", CORE, died) is not None


OUT_OF_MEMORY = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


def test_a_trial_out_of_gpu_memory_gets_twice_its_part_once() -> None:
    counted = retries()
    assert counted.share("t0000", QUARTER) == QUARTER
    assert counted.out_of_memory("t0000", QUARTER, OUT_OF_MEMORY) is None
    larger = counted.share("t0000", QUARTER)
    assert larger == Share(2, 0.5, 1)
    assert counted.share("t0001", QUARTER) == QUARTER
    assert counted.out_of_memory("t0000", larger, OUT_OF_MEMORY) == (
        f"Out of GPU memory with 0.25 of a GPU, and again with 0.5. {OUT_OF_MEMORY}"
    )


@pytest.mark.parametrize(
    ("share", "failure"),
    [
        (WHOLE, OUT_OF_MEMORY),
        (CORE, OUT_OF_MEMORY),
        (QUARTER, "TrainingError: The loss became nan in epoch 2; a lower optimizer.lr may help."),
        (QUARTER, "RuntimeError: DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_other_failures_and_whole_gpus_are_not_tried_again(share: Share, failure: str) -> None:
    assert retries().out_of_memory("t0000", share, failure) == failure


@pytest.mark.parametrize(("gpus", "larger"), [(0.1, 0.2), (0.5, 1.0), (0.7, 1.0), (1.0, None), (0.0, None)])
def test_a_larger_share_ends_at_a_whole_gpu(gpus: float, larger: float | None) -> None:
    share: Any = Share(1, gpus, 1).larger()
    assert (None if share is None else share.gpus) == larger
