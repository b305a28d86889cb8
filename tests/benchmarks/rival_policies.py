"""Search policies of other libraries, as they run them, on the simulated clock of :mod:`search.simulation`."""

from __future__ import annotations

import heapq
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from search import columns
from search.recorded import Curve, Recording
from search.simulation import Replay, best_miou
from spaces import Assignment, Space

RANDOM, OPTUNA, RAY, MOASHA, MOASHA_REPAIRED = "random", "optuna", "ray", "moasha", "moasha_repaired"
RIVALS = {
    RANDOM: "random, no stopping",
    OPTUNA: "Optuna, no stopping",
    RAY: "Ray stock: OptunaSearch, ASHA on mIoU",
    MOASHA: "syne-tune MOASHA",
    MOASHA_REPAIRED: "syne-tune MOASHA, ranks repaired",
}
"""To what they are."""
ETA, GRACE_EPOCHS = 3, 1
"""Of all that stop."""
_NO_CONTROLLER: Any = None
_SCRIPT = Path(__file__).with_name("moasha.py")


class Rival(Protocol):
    """A search policy; trials are told apart by their number."""

    def ask(self, number: int) -> Assignment:
        """The configuration of a new trial."""

    def report(self, number: int, curve: Curve, epoch: int) -> bool:
        """Take note of the trial's values after ``epoch``; whether it is stopped there."""

    def ended(self, number: int, curve: Curve, epoch: int) -> None:
        """The trial was stopped after ``epoch``, or that was its last."""


def run(recording: Recording, rival: Rival, *, workers: int, epochs: int) -> Replay:
    """Search until ``epochs`` are spent, as :func:`search.simulation.simulate` does, without anything of our sampler.

    A draw that was not recorded takes the curve of the nearest recorded configuration.
    """
    replay = Replay()
    curves: list[Curve] = []
    events: list[tuple[float, int, int]] = []

    def start() -> None:
        curve, away = recording.nearest(rival.ask(len(curves)))
        heapq.heappush(events, (replay.clock_s + curve.epoch_time_s[0], len(curves), 1))
        curves.append(curve)
        replay.distances.append(away)

    for _ in range(workers):
        start()
    while replay.epochs < epochs:
        replay.clock_s, number, epoch = heapq.heappop(events)
        replay.epochs += 1
        curve = curves[number]
        if not rival.report(number, curve, epoch) and epoch < recording.epochs:
            heapq.heappush(events, (replay.clock_s + curve.epoch_time_s[epoch], number, epoch + 1))
            continue
        rival.ended(number, curve, epoch)
        if epoch == recording.epochs and not math.isnan(best_miou(curve.mious)):
            replay.spent.append(replay.epochs)
            replay.completed.append(curve)
        start()
    replay.trials = len(curves)
    return replay


def open_rival(
    name: str, recording: Recording, seed: int, moasha_python: str | None = None
) -> AbstractContextManager[Rival]:
    """One of :data:`RIVALS`, before its first trial.

    Args:
        name: which.
        recording: whose space is searched; its curves have the full budget of a trial.
        seed: of the draws.
        moasha_python: see :func:`make_moasha_environment`; only MOASHA needs it.
    """
    space = recording.space
    if name == RANDOM:
        return nullcontext(OptunaStudy(space, RandomSampler(seed=seed)))
    if name == OPTUNA:
        return nullcontext(OptunaStudy(space, TPESampler(seed=seed)))
    if name == RAY:
        return nullcontext(RayStock(space, recording.epochs, seed))
    assert moasha_python is not None
    return _moasha(moasha_python, recording, seed, name == MOASHA_REPAIRED)


class OptunaStudy:
    """A study over all objectives, told the highest mIoU of each trial, which runs to its full budget."""

    def __init__(self, space: Space, sampler: BaseSampler) -> None:
        ways = columns.OBJECTIVES.values()
        directions = [StudyDirection.MAXIMIZE if way == "max" else StudyDirection.MINIMIZE for way in ways]
        self._space, self._live = space, dict[int, optuna.Trial]()
        self._study = optuna.create_study(directions=directions, sampler=sampler)

    def ask(self, number: int) -> Assignment:
        """See :class:`Rival`."""
        trial = self._live[number] = self._study.ask()
        return self._space.suggest(trial)

    def report(self, number: int, curve: Curve, epoch: int) -> bool:
        """Never stops."""
        return False

    def ended(self, number: int, curve: Curve, epoch: int) -> None:
        """See :class:`Rival`."""
        objectives = {columns.MIOU: best_miou(curve.mious), **curve.costs}
        self._study.tell(self._live.pop(number), [objectives[name] for name in columns.OBJECTIVES])


class RayStock:
    """Ray Tune's own searcher and scheduler, called as its controller calls them.

    The searcher has all objectives, the scheduler, which takes one metric, mIoU. A stopped trial is told to the
    searcher as completed, with its last values.
    """

    def __init__(self, space: Space, epochs: int, seed: int) -> None:
        self._searcher = OptunaSearch(
            space.suggest, metric=list(columns.OBJECTIVES), mode=list(columns.OBJECTIVES.values()), seed=seed
        )
        self._scheduler = AsyncHyperBandScheduler(
            time_attr=columns.EPOCH,
            metric=columns.MIOU,
            mode="max",
            max_t=epochs,
            grace_period=GRACE_EPOCHS,
            reduction_factor=ETA,
        )

    def ask(self, number: int) -> Assignment:
        """See :class:`Rival`."""
        assignment = self._searcher.suggest(str(number))
        assert assignment is not None
        self._scheduler.on_trial_add(_NO_CONTROLLER, _ray_trial(number))
        return assignment

    def report(self, number: int, curve: Curve, epoch: int) -> bool:
        """See :class:`Rival`."""
        result = _result(curve, epoch)
        decision = self._scheduler.on_trial_result(_NO_CONTROLLER, _ray_trial(number), result)
        stopped: bool = decision == TrialScheduler.STOP
        if not stopped:
            self._searcher.on_trial_result(str(number), result)
        return stopped

    def ended(self, number: int, curve: Curve, epoch: int) -> None:
        """See :class:`Rival`."""
        result = _result(curve, epoch)
        self._scheduler.on_trial_complete(_NO_CONTROLLER, _ray_trial(number), result)
        self._searcher.on_trial_complete(str(number), result)


class Moasha:
    """syne-tune's scheduler in a process of its own environment.

    It draws at random, and knows no conditions: parameters whose condition does not hold are drawn and ignored.
    """

    def __init__(self, process: subprocess.Popen[str], recording: Recording, seed: int, repaired: bool) -> None:
        self._process, self._space = process, recording.space
        settings = {
            "parameters": {parameter.path: parameter.sweep_entry() for parameter in recording.space.parameters},
            "metrics": list(columns.OBJECTIVES),
            "max_t": recording.epochs,
            "grace_period": GRACE_EPOCHS,
            "reduction_factor": ETA,
            "seed": seed,
            "repaired": repaired,
        }
        self._send(settings)

    def ask(self, number: int) -> Assignment:
        """See :class:`Rival`."""
        drawn = self._answer({"trial": number})
        assignment: Assignment = {}
        for parameter in self._space.parameters:
            if parameter.applies(assignment):
                assignment[parameter.path] = drawn[parameter.path]
        return assignment

    def report(self, number: int, curve: Curve, epoch: int) -> bool:
        """See :class:`Rival`."""
        result = _result(curve, epoch)
        signs = {name: -1 if way == "max" else 1 for name, way in columns.OBJECTIVES.items()}  # It minimises all.
        losses = {name: signs.get(name, 1) * value for name, value in result.items()}
        return bool(self._answer({"trial": number, "result": losses}))

    def ended(self, number: int, curve: Curve, epoch: int) -> None:
        """It stopped the trial itself, at the full budget too."""

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _answer(self, message: Mapping[str, Any]) -> Any:
        assert self._process.stdout is not None
        self._send(message)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{_SCRIPT.name} ended without an answer to {message}; it said why above.")
        return json.loads(line)


@contextmanager
def _moasha(python: str, recording: Recording, seed: int, repaired: bool) -> Iterator[Moasha]:
    with subprocess.Popen([python, _SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Moasha(process, recording, seed, repaired)  # It ends with its input, which leaving the block closes.


def make_moasha_environment() -> str:
    """The interpreter of the environment that moasha.py asks for; uv makes it in its cache on first use.

    Raises:
        RuntimeError: no uv, or packages that cannot be installed.
    """
    if importlib.util.find_spec("uv") is None:
        raise RuntimeError("syne-tune's environment is made with uv, which is not installed here: pip install uv")
    uv = [sys.executable, "-m", "uv"]
    try:
        subprocess.run([*uv, "sync", "--quiet", "--script", _SCRIPT], check=True)
        found = subprocess.run([*uv, "python", "find", "--script", _SCRIPT], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"syne-tune's environment could not be made; uv ended with {error.returncode}.") from error
    return found.stdout.strip()


def _ray_trial(number: int) -> Any:
    """What Ray's scheduler reads of a trial."""
    return SimpleNamespace(trial_id=str(number))


def _result(curve: Curve, epoch: int) -> dict[str, float]:
    """What a trial reports after an epoch."""
    return {columns.EPOCH: epoch, columns.MIOU: curve.mious[epoch - 1], **curve.costs}
