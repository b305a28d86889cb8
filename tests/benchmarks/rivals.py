"""Our search against those of other libraries, on recorded learning curves and a simulated clock.

``python tests/benchmarks/rivals.py [--seeds 20] [--workers 4] [--epochs N] [--recording RUN | --world order|cross]
[--rivals ray moasha ...]`` prints JSON lines: of each policy the hypervolume of what had completed at shares of the
budget, mean and half of the 95 % interval over seeds, and the share of the budget at which its mean reaches what random
draws without stopping have at the end; then how far ours is ahead of each rival under the same seeds. A table for
people goes to stderr.

Every policy has the same curves, workers and epochs. The rivals are in :mod:`rival_policies`; syne-tune gets an
environment of its own on first use. Its ranking takes most of the time: minutes for each seed, where others take
seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rival_policies import MOASHA, MOASHA_REPAIRED, RANDOM, RIVALS, make_moasha_environment, open_rival, run
from worlds import made_up

from search.comparisons import mean_effect
from search.config import SamplerConfig, SchedulerConfig
from search.recorded import Recording, read_recording
from search.replay import SHARES
from search.reporting.record import read_record
from search.results import ResultsError
from search.run_folder import RunError, RunFolder
from search.simulation import Policy, simulate

OURS = [Policy(SamplerConfig(), SchedulerConfig())]
_LEAST_WIDTH = 150
"""Of the tables: figures cut short are none."""


@dataclass(frozen=True)
class Outcome:
    """What came of one policy under one seed."""

    hypervolume: NDArray[np.float64]
    """After 0, 1, ... epochs; shape ``(epochs + 1,)``."""
    trials: int
    completed: int


@dataclass(frozen=True)
class Result:
    """What came of one policy under all seeds."""

    entry: str | Policy
    """A rival's name or a policy of ours."""
    outcomes: Sequence[Outcome]

    @property
    def name(self) -> str:
        """For people."""
        return RIVALS[self.entry] if isinstance(self.entry, str) else f"ours: {self.entry.name}"

    @property
    def mean(self) -> NDArray[np.float64]:
        """Hypervolume after 0, 1, ... epochs, mean over seeds; shape ``(epochs + 1,)``."""
        mean: NDArray[np.float64] = np.mean([outcome.hypervolume for outcome in self.outcomes], axis=0)
        return mean

    def at(self, share: float) -> NDArray[np.float64]:
        """Hypervolume of each seed at that share of the budget; shape ``(seeds,)``."""
        moment = int(share * (len(self.mean) - 1))
        return np.array([outcome.hypervolume[moment] for outcome in self.outcomes])

    def reaches(self, value: float) -> float | None:
        """Share of the budget at which the mean is that high; None where it never is."""
        moments = np.flatnonzero(self.mean >= value)
        return float(moments[0]) / (len(self.mean) - 1) if len(moments) else None


@dataclass(frozen=True)
class Setting:
    """What all policies have in common."""

    recording: Recording
    workers: int
    epochs: int
    moasha_python: str | None
    """Interpreter with syne-tune, where it is needed."""
    log_costs: bool
    """Whether hypervolume is taken over the logarithms of latency and size."""

    def play(self, job: tuple[str | Policy, int]) -> Outcome:
        """Replay a rival or a policy of ours under a seed."""
        entry, seed = job
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if isinstance(entry, Policy):
            replay = simulate(self.recording, entry, workers=self.workers, epochs=self.epochs, seed=seed)
        else:
            with open_rival(entry, self.recording, seed, self.moasha_python) as rival:
                replay = run(self.recording, rival, workers=self.workers, epochs=self.epochs)
        reached = replay.hypervolume(self.recording, range(self.epochs + 1), log_costs=self.log_costs)
        return Outcome(reached, replay.trials, len(replay.completed))


def compare(setting: Setting, entries: Sequence[str | Policy], seeds: int, processes: int) -> list[Result]:
    """Replay each under the seeds 0, 1, ..."""
    jobs = [(entry, seed) for entry in entries for seed in range(seeds)]
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    with ProcessPoolExecutor(processes) as pool, bar as progress:
        done = list(progress.track(pool.map(setting.play, jobs), total=len(jobs), description="Replaying"))
    return [Result(entry, done[place * seeds : (place + 1) * seeds]) for place, entry in enumerate(entries)]


def policy_lines(results: Sequence[Result]) -> Iterable[dict[str, object]]:
    """A line of each policy."""
    final = next(result for result in results if result.entry == RANDOM).mean[-1]
    for result in results:
        reached = result.reaches(final)
        yield {
            "policy": result.name,
            "hypervolume": {f"{100 * share:g} %": _mean_and_half(result.at(share)) for share in SHARES},
            "reaches_end_of_random_at": None if reached is None else round(reached, 3),
            "trials": round(float(np.mean([outcome.trials for outcome in result.outcomes])), 1),
            "completed": round(float(np.mean([outcome.completed for outcome in result.outcomes])), 1),
        }


def difference_lines(results: Sequence[Result]) -> Iterable[dict[str, object]]:
    """A line of each of ours and each rival: the difference of the two under the same seed."""
    ours = [result for result in results if isinstance(result.entry, Policy)]
    rivals = [result for result in results if isinstance(result.entry, str)]
    for one, rival in itertools.product(ours, rivals):
        ahead = {f"{100 * share:g} %": _mean_and_half(one.at(share) - rival.at(share)) for share in SHARES}
        yield {"policy": one.name, "rival": rival.name, "ahead_by": ahead}


def _mean_and_half(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean, and half of the 95 % interval."""
    effect = mean_effect(values)
    assert effect.interval is not None
    return round(effect.mean, 4), round(effect.mean - effect.interval[0], 4)


def _table(title: str, first: str, columns: Sequence[str], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def tables(policies: Iterable[Mapping[str, object]], differences: Iterable[Mapping[str, object]]) -> Iterable[Table]:
    """The lines, for people."""
    shares = [f"at {100 * share:g} %" for share in SHARES]
    yield _table(
        "Hypervolume, mean and 95 % interval",
        "policy",
        [*shares, "random's end at", "trials", "completed"],
        ((str(line["policy"]), *_figures(line["hypervolume"]), *_counts(line)) for line in policies),
    )
    yield _table(
        "Ahead by, mean and 95 % interval under the same seeds",
        "policy, rival",
        shares,
        ((f"{line['policy']} | {line['rival']}", *_figures(line["ahead_by"], "+.3f")) for line in differences),
    )


def _figures(pairs: object, form: str = ".3f") -> list[str]:
    assert isinstance(pairs, dict)
    return [f"{mean:{form}} ± {half:.3f}" for mean, half in pairs.values()]


def _counts(line: Mapping[str, object]) -> tuple[str, str, str]:
    reached = line["reaches_end_of_random_at"]
    share = "–" if reached is None else f"{reached:.1%}"
    return share, f"{line['trials']:.0f}", f"{line['completed']:.0f}"


def read(folder: Path) -> Recording:
    """The learning curves of a run.

    Raises:
        RunError: no such run.
        ResultsError: a run without full learning curves, or without its space.
    """
    record = read_record(RunFolder(folder))
    if record.space is None:
        raise ResultsError(f"The settings of run {record.run.name} hold no space, so nothing can be drawn from it.")
    return read_recording(record.run, record.space)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--recording", type=Path, default=Path(__file__).parent / "recorded/curves", help="a run")
    source.add_argument("--world", choices=["order", "cross"], help="made-up curves instead (worlds.py)")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS), help="random is always there")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=4, help="trials at a time")
    parser.add_argument("--epochs", type=int, help="budget of all trials together; default: what the recorded took")
    parser.add_argument("--log-costs", action="store_true", help="hypervolume over the logarithms of latency and size")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="replays at a time")
    arguments = parser.parse_args()
    for name, least in (("seeds", 2), ("workers", 1), ("epochs", 1), ("processes", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            parser.error(f"--{name} must be at least {least}; got {value}.")
    return arguments


def main() -> None:
    """Replay, and print."""
    arguments = parse()
    rivals = [rival for rival in RIVALS if rival == RANDOM or rival in arguments.rivals]
    try:
        recording = made_up(arguments.world) if arguments.world else read(arguments.recording)
        budget = arguments.epochs or recording.epochs * len(recording.curves)
        moasha_python = make_moasha_environment() if {MOASHA, MOASHA_REPAIRED} & set(rivals) else None
    except (RunError, ResultsError, RuntimeError) as error:
        sys.exit(str(error))
    setting = Setting(recording, arguments.workers, budget, moasha_python, arguments.log_costs)
    results = compare(setting, [*rivals, *OURS], arguments.seeds, arguments.processes)
    name = f"world {arguments.world}" if arguments.world else arguments.recording.name
    common = {"recording": name, "seeds": arguments.seeds, "workers": arguments.workers, "epochs": budget}
    common["log_costs"] = arguments.log_costs
    policies, differences = list(policy_lines(results)), list(difference_lines(results))
    for line in [*policies, *differences]:
        print(json.dumps({"benchmark": "rivals"} | common | line))
    console = Console(stderr=True)
    for table in tables(policies, differences):
        Console(stderr=True, width=max(_LEAST_WIDTH, console.width)).print(table, "")


if __name__ == "__main__":
    main()
