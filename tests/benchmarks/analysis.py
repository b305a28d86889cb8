"""Is the analysis of large searches as fast as the libraries beneath it? Front, hypervolume, ranking, reading.

``python tests/benchmarks/analysis.py [--results 1000000] [--ranked 100000] [--trials 100000] [--epochs 100]`` makes
results up and prints one JSON line each, with the median, the least and the most of ``ours_over_bare``, measured in
turns:

- ``front`` and ``hypervolume``: of a whole ``trials`` table in memory, with all its columns and trials that were
  stopped, against moocore on the bare array of the three objectives of the completed trials.
- ``ranking``: one decision of ``pareto_asha`` on a rung of ``--ranked`` trials, against moocore's ranking of all of
  them.
- ``reading``: the ``epochs`` table in the files that a search leaves, against pyarrow reading the same files.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray
from turns import in_turns, spread

from search import columns, objectives
from search.pareto_asha import ParetoAsha
from search.prepare import column_type
from search.results import MOST_PARTS, read_table
from spaces import Space, shipped_spaces
from trainers.config import TrialConfig
from trainers.profiling import cpu_model

ARCHITECTURES = 1000
"""Trials of one architecture share latency and size."""
COMPLETED = 0.6
CLASSES = tuple(f"class {number}" for number in range(8))
MAXIMISE = [direction == "max" for direction in objectives.DIRECTIONS]


def compare(ours: Callable[[], object], bare: Callable[[], object], turns: int) -> dict[str, Any]:
    """Both in turns."""
    pairs = in_turns(ours, bare, turns)
    return {
        "ours_s": round(statistics.median(our_s for our_s, _ in pairs), 3),
        "bare_s": round(statistics.median(bare_s for _, bare_s in pairs), 3),
    } | spread("ours_over_bare", (our_s / bare_s for our_s, bare_s in pairs), 2)


def random_objectives(number: int, random: np.random.Generator) -> NDArray[np.float64]:
    """mIoU, latency and size of trials: slower and larger is better on average, and equal within an architecture."""
    latency = random.lognormal(1.5, 1.0, ARCHITECTURES)
    size = latency * random.lognormal(1.0, 0.5, ARCHITECTURES)
    kind = random.integers(ARCHITECTURES, size=number)
    miou = 0.4 + 0.08 * np.log(latency[kind]) + random.normal(0, 0.05, number)
    return np.stack([miou, latency[kind], size[kind]], axis=1)


def trials_table(values: NDArray[np.float64], random: np.random.Generator) -> pa.Table:
    """A ``trials`` table of the space ``backbones`` with these objectives."""
    space = Space.from_dict("backbones", shipped_spaces()["backbones"])
    schema = columns.trials_schema({parameter.path: column_type(parameter) for parameter in space.parameters}, CLASSES)
    number = len(values)
    states = np.where(random.random(number) < COMPLETED, columns.COMPLETED, columns.STOPPED)
    known: dict[str, Any] = dict(zip(columns.OBJECTIVES, values.T, strict=True))
    known |= {columns.TRIAL_ID: trial_ids(number), columns.STATE: states}
    known |= {columns.CONFIG: [json.dumps(TrialConfig().to_dict())] * number}
    return made_up(schema, known, number, random)


def made_up(schema: pa.Schema, known: dict[str, Any], number: int, random: np.random.Generator) -> pa.Table:
    """Rows of a table with the columns that are known, and numbers or nothing in the others."""

    def column(field: pa.Field) -> pa.Array:
        if field.name in known:
            return pa.array(known[field.name]).cast(field.type)
        return pa.array(random.random(number)) if field.type == pa.float64() else pa.nulls(number, field.type)

    return pa.table([column(field) for field in schema], schema=schema)


def trial_ids(number: int) -> list[str]:
    """As a search names its trials."""
    return [f"t{index:04d}" for index in range(number)]


def write_epochs(folder: Path, trials: int, epochs: int, random: np.random.Generator) -> None:
    """An ``epochs`` table in merged files that halve in size, and small ones, as a search leaves it."""
    schema, left, stamp = columns.epochs_schema(CLASSES), trials, 0
    while left > MOST_PARTS:
        number = (left + 1) // 2
        left, stamp = left - number, stamp + 2
        write_part(folder / f"compact-{stamp + 1:020d}-{stamp:020d}-0.parquet", schema, number, epochs, random)
    for _ in range(left):
        stamp += 2
        write_part(folder / f"part-{stamp:020d}-0.parquet", schema, 1, epochs, random)


def write_part(file: Path, schema: pa.Schema, trials: int, epochs: int, random: np.random.Generator) -> None:
    """The epochs of some trials, in the order of trials side by side."""
    known = {columns.TRIAL_ID: trial_ids(trials) * epochs, columns.EPOCH: np.repeat(np.arange(1, epochs + 1), trials)}
    pq.write_table(made_up(schema, known, trials * epochs, random), file)


def front_and_hypervolume(results: int, turns: int, random: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Of a whole table, against the bare objectives of those of its trials that count."""
    table = trials_table(random_objectives(results, random), random)
    bare = np.stack([objectives.completed(table)[name].to_numpy() for name in columns.OBJECTIVES], axis=1)
    corner = objectives.reference_point(table)
    point = [corner[name] for name in columns.OBJECTIVES]
    about = {"results": results, "front": objectives.front(table).num_rows}
    yield (
        {"what": "front"}
        | about
        | compare(
            lambda: objectives.front(table),
            lambda: moocore.is_nondominated(bare, maximise=MAXIMISE, keep_weakly=True),
            turns,
        )
    )
    yield (
        {"what": "hypervolume"}
        | about
        | compare(
            lambda: objectives.hypervolume(table, corner),
            lambda: moocore.hypervolume(bare, ref=point, maximise=MAXIMISE),
            turns,
        )
    )


def ranking(number: int, turns: int, random: np.random.Generator) -> dict[str, Any]:
    """A decision on a rung of so many trials, for the one in its middle."""
    values = random_objectives(number, random)
    rows = (dict(zip(columns.OBJECTIVES, row, strict=True)) for row in values.tolist())
    rung = dict(zip(trial_ids(number), rows, strict=True))
    middle = sorted(rung, key=lambda trial_id: rung[trial_id][columns.MIOU])[number // 2]
    judge = ParetoAsha(eta=3, grace_epochs=1, epochs=27).judge
    return {"what": "ranking", "results": number} | compare(
        lambda: judge(rung, middle, 1),
        lambda: moocore.pareto_rank(values, maximise=MAXIMISE),
        turns,
    )


def reading(trials: int, epochs: int, turns: int, random: np.random.Generator) -> dict[str, Any]:
    """Of an ``epochs`` table on disk."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_epochs(folder, trials, epochs, random)
        files = sorted(map(str, folder.iterdir()))
        about = {"what": "reading", "trials": trials, "epochs": epochs, "files": len(files)}
        return about | compare(lambda: read_table(folder), lambda: ds.dataset(files).to_table(), turns)


def measured(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One line a measurement."""
    random = np.random.default_rng(0)
    yield from front_and_hypervolume(given.results, given.turns, random)
    yield ranking(given.ranked, given.turns, random)
    yield reading(given.trials, given.epochs, given.turns, random)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=int, default=1_000_000)
    parser.add_argument("--ranked", type=int, default=100_000)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--turns", type=int, default=5)
    for line in measured(parser.parse_args()):
        print(json.dumps({"benchmark": "analysis", "device": cpu_model()} | line), flush=True)


if __name__ == "__main__":
    main()
