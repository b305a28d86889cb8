"""What the next draw costs once many trials have ended: ``python tests/benchmarks/sampler_draws.py``.

Prints a JSON line for each number of trials in the study, in an SQLite file as a search has it, and sampler: the median
time of a draw, each after the trial before was told, and how many times that of a random draw it is. Trials are drawn
at random and trained by nobody. The first draw of a process, which reads the whole study, is not counted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from scale import SPACE, made_up_epoch

from search import columns
from search.config import SAMPLERS, SamplerConfig
from search.ehvi import Cost, architecture_part
from search.sampler import Earlier, Sampler
from spaces import Assignment
from trainers.config import TrialConfig
from trainers.profiling import cpu_model

EPOCHS = 3
MOST = {"gp": 1000}
"""Trials beyond which a sampler is left out: the time of Optuna's GP grows with their cube."""


def cost(assignment: Assignment) -> Cost:
    """Of an architecture: some number that is always the same."""
    place = sum(map(ord, str(architecture_part(assignment)))) % 17
    return Cost(5.0 + place, 2.0 + 3.0 * place)


def objectives(name: str, assignment: Assignment) -> Mapping[str, float]:
    """What the trial ``name`` reaches at its end."""
    trial = TrialConfig().replace({**assignment, "training.epochs": EPOCHS})
    costs = cost(assignment)
    miou = made_up_epoch(name, trial.to_dict(), EPOCHS)["miou"]
    return {columns.MIOU: miou, columns.LATENCY_MS: costs.latency_ms, columns.SIZE_MB: costs.size_mb}


def random_trials(number: int) -> list[Earlier]:
    """So many that have ended."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [SPACE.suggest(study.ask()) for _ in range(number)]
    return [Earlier(f"made-up/{place}", item, objectives(str(place), item), {}) for place, item in enumerate(drawn)]


def open_sampler(file: Path, name: str, earlier: Sequence[Earlier]) -> Sampler:
    """A sampler of that name whose study has the trials ``earlier``."""
    return Sampler(file, SPACE, SamplerConfig(name=name), 0, epochs=EPOCHS, costs=cost, earlier=earlier)


def draw_s(sampler: Sampler, draws: int) -> float:
    """Median seconds of a draw."""
    taken = []
    for _ in range(draws + 1):
        started = time.perf_counter()
        draw = sampler.ask()
        taken.append(time.perf_counter() - started)
        assert draw is not None
        sampler.tell_completed(draw.trial_id, objectives(draw.trial_id, draw.assignment))
    return statistics.median(taken[1:])


def lines(number: int, draws: int) -> Iterator[dict[str, Any]]:
    """What is printed of studies of so many trials, random draws first."""
    earlier = random_trials(number)
    with tempfile.TemporaryDirectory() as folder:
        filled = Path(folder) / "filled.db"
        open_sampler(filled, "random", earlier)
        of_random = 0.0
        for name in ("random", *(name for name in SAMPLERS if name not in {"random", "grid"})):
            if number > MOST.get(name, number):
                yield {"sampler": name, "left_out": f"beyond {MOST[name]} trials"}
                continue
            own = Path(shutil.copy(filled, Path(folder) / f"{name}.db"))
            taken_s = draw_s(open_sampler(own, name, earlier), draws)
            of_random = of_random or taken_s
            yield {"sampler": name, "draw_ms": round(1e3 * taken_s, 1), "over_random": round(taken_s / of_random, 1)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    for number in given.trials:
        about = {"benchmark": "sampler_draws", "device": cpu_model(), "trials": number}
        for line in lines(number, given.draws):
            print(json.dumps(about | line), flush=True)


if __name__ == "__main__":
    main()
