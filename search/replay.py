"""``python -m search.replay run=<name>``: how other settings of a search would have done on its learning curves."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from search.command_line import RunChoice, quoted_lists, run_command
from search.comparisons import mean_effect
from search.config import SAMPLERS, SCHEDULERS, SamplerConfig, SchedulerConfig
from search.console import sayer
from search.recorded import Recording, read_recording
from search.reporting.record import read_record
from search.results import ResultsError
from search.schedulers import HALVING
from search.simulation import Policy, Replay, simulate
from trainers.settings import ConfigError, choose, require

HELP = """\
Replay search policies on the learning curves of a run whose trials all went to their full budget: the real sampler and
stopping rule on a simulated clock, without training. Tells which settings find the front with the fewest epochs.

  python -m search.replay [run=NAME] [sampler=ehvi,tpe] [scheduler=front,none] [eta=3] [grace_epochs=1] [brackets=1]
                          [stopped=constraint] [workers=4] [seeds=20] [epochs=N] [storage=URI]

  run=NAME             the recorded run (made with scheduler.name=none); default: the latest
  runs=DIR             folder of all runs; default: runs
  storage=URI          bring the run from there first
  sampler=A,B          samplers to compare; default: random,tpe,ehvi
  scheduler=A,B        stopping rules to compare; default: none,asha,front
  eta=A,B              reduction factors to compare; default: 3
  grace_epochs=A,B     first rungs to compare; default: 1
  brackets=A,B         numbers of brackets to compare; default: 1
  stopped=A,B          what Optuna's samplers are told of stopped trials: constraint, as_is, left_out, extrapolated;
                       default: constraint
  workers=N            trials at a time; default: 4
  seeds=N              replays of each policy; default: 20
  epochs=N             budget of all trials together; default: what all recorded trials took

A draw that was not recorded takes the curve of the nearest recorded configuration; the output says how near that is.

Example
  python -m search.replay run=backbones-20260101-120000 eta=2,3,4 workers=64
"""
SHARES = (0.1, 0.25, 0.5, 1.0)
"""Of the budget, at which the hypervolume is told."""
_LEAST_WIDTH = 120


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(RunChoice):
    """The settings of the command; what is compared is a list with commas."""

    sampler: str = "random,tpe,ehvi"
    """Of :data:`~search.config.SAMPLERS`."""
    scheduler: str = "none,asha,front"
    """Of :data:`~search.config.SCHEDULERS`."""
    eta: str = "3"
    """Reduction factors."""
    grace_epochs: str = "1"
    """First rungs."""
    brackets: str = "1"
    """Numbers of brackets."""
    stopped: str = "constraint"
    """What the sampler is told of stopped trials: of :data:`~search.config.STOPPED_AS`."""
    workers: int = 4
    """Trials at a time."""
    seeds: int = 20
    """Replays of each policy."""
    epochs: int | None = None
    """Budget of a replay, by default that of the recording."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.workers >= 1, "workers", "at least 1", self.workers)
        require(self.seeds >= 2, "seeds", "at least 2, since one says nothing of chance", self.seeds)
        require(self.epochs is None or self.epochs >= 1, "epochs", "at least 1", self.epochs)

    def policies(self) -> list[Policy]:
        """Every combination, once each.

        Raises:
            ConfigError: a name that is none, or a number that cannot be.
        """
        samplers, schedulers = self.sampler.split(","), self.scheduler.split(",")
        for name in samplers:
            choose("sampler", name, SAMPLERS)
        for name in schedulers:
            choose("scheduler", name, SCHEDULERS)
        told = self.stopped.split(",")
        names = ("eta", "grace_epochs", "brackets")
        numbers = itertools.product(*(_numbers(name, getattr(self, name)) for name in names))
        halvings = [dict(zip(names, chosen, strict=True)) for chosen in numbers]
        policies = [
            Policy(SamplerConfig(name=sampler, stopped=stopped), _scheduler(scheduler, halving))
            for sampler, scheduler, halving, stopped in itertools.product(samplers, schedulers, halvings, told)
        ]
        return list({policy.name: policy for policy in policies}.values())  # without rungs, eta makes no difference


def _scheduler(name: str, halving: Mapping[str, int]) -> SchedulerConfig:
    """With what the rule reads of ``halving``."""
    read = halving if name in HALVING else {"grace_epochs": halving["grace_epochs"]}
    return SchedulerConfig(name=name, **read)


def _numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{name} must be whole numbers with commas between them; got {text!r}.") from None


def replay(config: ReplayConfig) -> None:
    """Replay all policies and print how they compare.

    Raises:
        ResultsError: a run without full learning curves, or without its space.
        ConfigError: rungs that its curves are too short for.
    """
    policies = config.policies()
    record = read_record(config.find())
    if record.space is None:
        raise ResultsError(f"The settings of run {record.run.name} hold no space, so nothing can be drawn from it.")
    recording = read_recording(record.run, record.space)
    for policy in policies:
        policy.scheduler.check_rungs(recording.epochs)
    budget = config.epochs or recording.epochs * len(recording.curves)
    say = sayer(Console())
    say(
        f"{len(recording.curves)} curves of {recording.epochs} epochs of run {record.run.name}; each policy with "
        f"{config.workers} workers and {budget:,} epochs, {config.seeds} seeds"
    )
    replays = replay_all(recording, policies, config.workers, budget, config.seeds)
    wide = max(_LEAST_WIDTH, Console().width)  # A narrower terminal breaks the lines; figures cut short are none.
    Console(width=wide).print(_table(recording, policies, replays, budget))
    say(f"Hypervolume of what was completed, mean and 95 % interval over {config.seeds} seeds.")
    away = float(np.mean([away for found in replays for one in found for away in one.distances]))
    if away:
        say(f"Draws were on average {away:.2g} of one parameter's range away from the curve that stood in for them.")


def replay_all(
    recording: Recording, policies: Sequence[Policy], workers: int, epochs: int, seeds: int
) -> list[list[Replay]]:
    """Replays of each policy under the seeds 0, 1, ...; as many at a time as there are cores."""
    work = partial(_replay_one, recording, workers, epochs)
    jobs = [(policy, seed) for policy in policies for seed in range(seeds)]
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    with ProcessPoolExecutor(os.cpu_count()) as pool, bar as progress:
        done = list(progress.track(pool.map(work, jobs), total=len(jobs), description="Replaying"))
    return [done[start : start + seeds] for start in range(0, len(done), seeds)]


def _replay_one(recording: Recording, workers: int, epochs: int, job: tuple[Policy, int]) -> Replay:
    policy, seed = job
    return simulate(recording, policy, workers=workers, epochs=epochs, seed=seed)


def _table(recording: Recording, policies: Sequence[Policy], replays: Sequence[Sequence[Replay]], budget: int) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for heading in [*(f"at {100 * share:g} %" for share in SHARES), "trials", "completed"]:
        table.add_column(heading, justify="right", no_wrap=True)
    for policy, found in zip(policies, replays, strict=True):
        reached = np.array([one.hypervolume(recording, [share * budget for share in SHARES]) for one in found])
        counts = np.mean([[one.trials, len(one.completed)] for one in found], axis=0)
        cells = [*map(_with_interval, reached.T.tolist()), *(f"{count:.0f}" for count in counts)]
        table.add_row(*map(Text, [policy.name, *cells]))
    return table


def _with_interval(values: Sequence[float]) -> str:
    effect = mean_effect(values)
    assert effect.interval is not None
    return f"{effect.mean:.3f} ± {(effect.interval[1] - effect.interval[0]) / 2:.3f}"


def main() -> None:
    """Entry point."""
    sys.argv[1:] = quoted_lists(sys.argv[1:])
    run_command("replay", ReplayConfig, HELP, replay, "nothing was written.")


if __name__ == "__main__":
    main()
