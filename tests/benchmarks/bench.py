"""The performance table: ``python tests/benchmarks/bench.py [--lines FILE]`` runs what has a bar and prints Markdown.

Each row is a figure of one of the benchmarks here, a ratio of two things measured side by side but for the start of a
trial, with the bar that it has to reach. A row that needs a GPU is empty on a machine without one. ``--lines`` keeps
the JSON lines that the figures were taken from. The exit code is 0 whether bars are met or not.
"""

from __future__ import annotations

import argparse
import json
import operator
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainers.loop import resolve_device
from trainers.profiling import device_name

Lines = Sequence[dict[str, Any]]
COMPARISONS = {"at least": operator.ge, "at most": operator.le, "under": operator.lt}


@dataclass(frozen=True)
class Row:
    """A figure and its bar."""

    what: str
    key: str
    """The figure's name in the JSON lines; lines without it do not count."""
    bar: tuple[str, float] | None
    of: Callable[[Sequence[float]], float] = max
    """What is taken of several lines."""
    only: str | None = None
    """Value of ``what`` in the lines that count."""

    def figure(self, lines: Lines) -> float:
        """The figure."""
        return self.of([line[self.key] for line in lines if self.key in line and self.only in {None, line.get("what")}])

    def shown(self, lines: Lines, command: str) -> str:
        """As a row of the table."""
        figure = self.figure(lines)
        if self.bar is None:
            return f"| {self.what} | {figure:g} | | | `{command}` |"
        comparison, limit = self.bar
        met = "yes" if COMPARISONS[comparison](figure, limit) else f"no: {figure / limit:.2f} of it"
        return f"| {self.what} | {figure:g} | {comparison} {limit:g} | {met} | `{command}` |"


@dataclass(frozen=True)
class Benchmark:
    """A command and the rows that it fills."""

    command: str
    rows: tuple[Row, ...]
    needs_gpu: bool = False


TRIAL = "images/s of a trial over those of its bare loop, the worst architecture of `backbones`"
FASTER = (
    "wall-clock time of the fastest of Ray's recipe, Optuna with joblib, a process a trial, over that of our search"
)
PACKED = "images/s of as many trials as `auto` puts on a GPU over those of the best number, the worst of `backbones`"
BENCHMARKS = (
    Benchmark(
        "training_step.py --device cpu --images 367 --turns 2",
        (Row(f"{TRIAL}, CPU, as many images as CamVid", "trial_over_bare", ("at least", 0.9), min),),
    ),
    Benchmark(
        "training_step.py --device cuda --height 352 --width 480",
        (Row(f"{TRIAL}, GPU", "trial_over_bare", ("at least", 0.95), min),),
        needs_gpu=True,
    ),
    Benchmark(
        "trials_per_gpu.py",
        (Row(PACKED, "auto_over_best", ("at least", 0.9), min),),
        needs_gpu=True,
    ),
    Benchmark(
        "data_path.py",
        (
            Row(
                "images per CPU-second, packed over decoding, the worst of three policies",
                "packed_over_decoding",
                ("at least", 8),
                min,
            ),
            Row("memory for the packed images, 8 trials over 1", "memory", ("at most", 1.1)),
        ),
    ),
    Benchmark(
        "trial_start.py",
        (
            Row("start of one more trial, s", "reused_actor_s", ("under", 0.5)),
            Row("a new process a trial over it", "new_process_over_reused", None),
        ),
    ),
    Benchmark(
        "whole_search.py",
        (
            Row(f"{FASTER}, all epochs, images as large as CamVid's", "fastest_plain_over_ours", ("at least", 2), min),
            Row("the same, ours with early stopping", "fastest_plain_over_ours_stopping", None, min),
        ),
    ),
    Benchmark(
        "whole_search.py --source 3000 4000 --images 32 --ways ours joblib",
        (
            Row(
                "wall-clock time of Optuna with joblib over that of our search, images as large as FloodNet's",
                "fastest_plain_over_ours",
                ("at least", 2),
                min,
            ),
        ),
    ),
    Benchmark(
        "analysis.py",
        (
            Row("front of 1,000,000 results over moocore's", "ours_over_bare", ("at most", 2), only="front"),
            Row("hypervolume of the same over moocore's", "ours_over_bare", ("at most", 2), only="hypervolume"),
            Row("one decision among 100,000 over moocore's ranking", "ours_over_bare", ("at most", 2), only="ranking"),
            Row("reading 100,000 trials x 100 epochs over pyarrow", "ours_over_bare", ("at most", 2), only="reading"),
        ),
    ),
)


def run(command: str) -> Iterator[dict[str, Any]]:
    """The lines that a benchmark prints; what it says besides is shown."""
    script, *arguments = command.split()
    started = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.startswith("{"):
                yield json.loads(line)
    if process.returncode:
        raise SystemExit(f"{command} ended with exit code {process.returncode}")


def main() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=Path, help="file for the JSON lines")
    given = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    print(
        f"On {device_name(resolve_device('auto'))}:\n\n| what | figure | bar | met | command |\n|---|---|---|---|---|"
    )
    for benchmark in BENCHMARKS:
        command = f"python tests/benchmarks/{benchmark.command}"
        if benchmark.needs_gpu and not has_gpu:
            print("\n".join(f"| {row.what} | | | no GPU here | `{command}` |" for row in benchmark.rows), flush=True)
            continue
        lines = []
        for line in run(benchmark.command):
            lines.append(line)
            if given.lines:
                with given.lines.open("a") as file:
                    file.write(json.dumps(line) + "\n")
        print("\n".join(row.shown(lines, command) for row in benchmark.rows), flush=True)


if __name__ == "__main__":
    main()
