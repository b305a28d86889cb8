"""What the report of a large search costs: ``python tests/benchmarks/report.py --trials 1000 --epochs 50``.

Writes a made-up run of that many trials, eight classes, every state and as many epochs as each trial got to, lets
``python -m search.report`` report it in a process of its own, and prints one JSON line: the seconds and the most memory
of that process, and the bytes of the page, in all, of each section and of each part of its data. ``--keep FOLDER``
leaves the run there, to open the page or to profile.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from search import columns
from search.run_folder import RunFolder
from trainers.config import ModelConfig, TrainingConfig, TrialConfig
from trainers.profiling import cpu_model

NAME = "large"
CLASSES = ("background", "building", "road", "water", "tree", "vehicle", "pool", "grass")
STATES = ((columns.COMPLETED, 0.9), (columns.STOPPED, 0.06), (columns.INFEASIBLE, 0.015), (columns.FAILED, 0.015))
"""State and share of trials; the rest are interrupted and in no ``trials`` table. Few stop early: the costly case."""
ARCHITECTURES: tuple[tuple[dict[str, Any], float, float], ...] = (
    ({"model.architecture": "unet", "model.size": "small"}, 5.1, 0.50),
    ({"model.architecture": "unet", "model.size": "medium"}, 31.0, 0.58),
    ({"model.architecture": "deeplab", "model.backbone": "mobilenet_v3_small", "model.aspp": False}, 4.0, 0.52),
    ({"model.architecture": "deeplab", "model.backbone": "mobilenet_v3_small", "model.aspp": True}, 4.6, 0.54),
    ({"model.architecture": "deeplab", "model.backbone": "resnet18", "model.aspp": False}, 11.7, 0.60),
    ({"model.architecture": "deeplab", "model.backbone": "resnet18", "model.aspp": True}, 14.2, 0.62),
)
"""Model fields, latency in ms and the mIoU that trials end near."""
SETTINGS: dict[str, list[Any]] = {
    "loss.class_weights": ["none", "inverse_frequency"],
    "augmentation.policy": ["none", "light", "strong"],
    "training.batch_size": [8, 16],
}
SPACE: dict[str, Any] = {
    "question": "What is worth its milliseconds?",
    "parameters": {
        "model.architecture": {"values": ["unet", "deeplab"]},
        "model.size": {"values": ["small", "medium"], "when": {"model.architecture": "unet"}},
        "model.backbone": {"values": ["mobilenet_v3_small", "resnet18"], "when": {"model.architecture": "deeplab"}},
        "model.aspp": {"values": [False, True], "when": {"model.architecture": "deeplab"}},
        **{path: {"values": values} for path, values in SETTINGS.items()},
        "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
    },
}
LEARNING_RATES = 40
"""Distinct values, so that some trials differ in one setting only and there is something to compare."""
WATCHED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Run by a small process between: Linux counts what the parent holds when a process begins as the process's own."""
TYPES = {"model.aspp": pa.bool_(), "training.batch_size": pa.int64(), "optimizer.lr": pa.float64()}


class MadeUpRun:
    """A run of ``trials`` trials of up to ``epochs`` epochs in ``folder``."""

    def __init__(self, folder: Path, trials: int, epochs: int) -> None:
        self.run = RunFolder(folder)
        self._epochs = epochs
        self._random = np.random.default_rng(0)
        names = [state for state, _ in STATES] + [columns.INTERRUPTED]
        shares = [share for _, share in STATES]
        self._states = np.array(names)[self._random.choice(len(names), trials, p=[*shares, 1 - sum(shares)])]
        self._ids = np.array([f"t{index:04d}" for index in range(trials)])
        self._kinds = self._random.integers(len(ARCHITECTURES), size=trials)
        self._reached = self._epochs_reached()

    def write(self) -> None:
        """Write all of it."""
        self.run.path.mkdir(parents=True)
        self._write_head()
        epochs = self._epochs_table()
        _write(epochs, self.run.results / "epochs", columns.epochs_schema(CLASSES))
        parameters = {path: TYPES.get(path, pa.string()) for path in SPACE["parameters"]}
        _write(self._trials_table(epochs), self.run.results / "trials", columns.trials_schema(parameters, CLASSES))
        _write(self._architectures_table(), self.run.results / "architectures", columns.architectures_schema())
        for index in np.flatnonzero((self._states == columns.INTERRUPTED) & (self._reached > 0)):
            folder = self.run.trials / self._ids[index]
            folder.mkdir(parents=True)
            self._config(self._kinds[index]).save(folder / "config.yaml")

    def _epochs_reached(self) -> NDArray[np.int64]:
        partial = self._random.integers(1, self._epochs + 1, len(self._ids))
        stopped = np.array([1, 3, 9, 27])[self._random.integers(4, size=len(self._ids))].clip(max=self._epochs)
        reached = np.where(self._states == columns.COMPLETED, self._epochs, partial)
        reached = np.where(self._states == columns.STOPPED, stopped, reached)
        return np.where(self._states == columns.INFEASIBLE, 0, reached)

    def _write_head(self) -> None:
        settings = {"num_trials": len(self._ids), "seed": 0, "space_name": NAME, "space": SPACE}
        self.run.config.write_text(json.dumps(settings))
        data = {"name": "scenes", "num_train": 1280, "num_val": 160, "height": 96, "width": 128, "notes": []}
        classes = [{"name": name, "color": [30 * index, 200, 90]} for index, name in enumerate(CLASSES)]
        references = [{"label": "all background", "miou": 0.08}]
        shown = {"classes": classes, "question": SPACE["question"], "parameters": list(SPACE["parameters"])}
        self.run.write_data(data | shown | {"references": references, "constraints": {}})

    def _config(self, kind: int) -> TrialConfig:
        fields = {path.removeprefix("model."): value for path, value in ARCHITECTURES[kind][0].items()}
        return TrialConfig(model=ModelConfig(**fields), training=TrainingConfig(epochs=self._epochs))

    def _epochs_table(self) -> dict[str, Any]:
        """Curves that rise to what the architecture can reach, each trial its own way, as columns."""
        trial = np.repeat(np.arange(len(self._ids)), self._reached)
        epoch = np.arange(len(trial)) - np.repeat(np.cumsum(self._reached) - self._reached, self._reached) + 1
        tops = np.array([top for _, _, top in ARCHITECTURES])[self._kinds]
        tops = tops + self._random.normal(0, 0.03, len(self._ids))
        miou = tops[trial] * (1 - np.exp(-4 * epoch / self._epochs)) + self._random.normal(0, 0.01, len(trial))
        noise = self._random.normal(0, 0.01, (len(CLASSES), len(trial)))
        loss = 2 * np.exp(-3 * epoch / self._epochs) + 0.3 + noise[0]
        shares = {columns.MIOU: 0.0, columns.MIOU_FOREGROUND: -0.05, columns.TRAIN_MIOU: 0.04}
        shares |= {columns.PIXEL_ACCURACY: 0.25, columns.TRAIN_PIXEL_ACCURACY: 0.27}
        shares |= {columns.MEAN_CLASS_ACCURACY: 0.05, columns.TRAIN_MEAN_CLASS_ACCURACY: 0.08}
        ious = {columns.iou_column(name): miou + 10 * error for name, error in zip(CLASSES, noise, strict=True)}
        reported = np.datetime64("2026-03-01T00:00:00", "us") + 20_000_000 * np.arange(len(trial))
        order = np.lexsort((trial, epoch))  # as trials side by side report
        made = {columns.TRIAL_ID: self._ids[trial], columns.EPOCH: epoch}
        made |= {name: miou + shift for name, shift in shares.items()} | ious
        made |= {columns.VAL_LOSS: loss, columns.TRAIN_LOSS: loss - 0.1, columns.LR: 1e-3 * 0.93**epoch}
        made |= {columns.EPOCH_TIME_S: np.full(len(trial), 18.0), columns.TRAIN_TIME_S: 18.0 * epoch}
        made |= {columns.IMAGES_PER_S: np.full(len(trial), 71.0)}
        return {name: values[order] for name, values in made.items()} | {columns.REPORTED_AT: reported}

    def _trials_table(self, epochs: Mapping[str, Any]) -> dict[str, Any]:
        """The trials that ended, with the metrics of their last epoch."""
        ended = np.flatnonzero(self._states != columns.INTERRUPTED)
        last = dict(zip(zip(epochs[columns.TRIAL_ID], epochs[columns.EPOCH], strict=True), range(10**9), strict=False))
        places = [last.get((self._ids[index], self._reached[index])) for index in ended]
        metrics = {name for name in epochs if name in columns.RUN_METRICS or name.startswith(columns.iou_column(""))}
        table: dict[str, Any] = {
            name: [None if place is None else epochs[name][place] for place in places] for name in metrics
        }
        kinds = [ARCHITECTURES[kind] for kind in self._kinds[ended]]
        latency = np.array([kind[1] for kind in kinds]) * self._random.uniform(0.95, 1.05, len(ended))
        table |= {columns.TRIAL_ID: self._ids[ended], columns.CONFIGURATION: self._ids[ended]}
        table |= {columns.REPEAT: np.zeros(len(ended), int), columns.STATE: self._states[ended]}
        reasons = {columns.STOPPED: "stopped at a rung: not among the best third", columns.FAILED: "out of memory"}
        table |= {columns.REASON: [reasons.get(state) for state in self._states[ended]]}
        table |= {columns.EPOCH: self._reached[ended], columns.EPOCHS: np.full(len(ended), self._epochs)}
        table |= {columns.BEST_EPOCH: [reached or None for reached in self._reached[ended]], columns.SEED: ended * 0}
        table |= {columns.LATENCY_MS: latency, columns.LATENCY_CPU_MS: latency, columns.SIZE_MB: 2 * latency}
        table |= {columns.PARAMS: (5e5 * latency).astype(int), columns.MACS: (5e8 * latency).astype(int)}
        return table | self._drawn(kinds) | self._texts(ended)

    def _drawn(self, kinds: list[tuple[dict[str, Any], float, float]]) -> dict[str, Any]:
        paths = [path for path in SPACE["parameters"] if path.startswith("model.")]
        drawn: dict[str, Any] = {path: [fields.get(path) for fields, _, _ in kinds] for path in paths}
        for path, values in SETTINGS.items():
            drawn[path] = [values[place] for place in self._random.integers(len(values), size=len(kinds))]
        rates = np.geomspace(1e-4, 1e-2, LEARNING_RATES)
        return drawn | {"optimizer.lr": rates[self._random.integers(LEARNING_RATES, size=len(kinds))]}

    def _texts(self, ended: NDArray[np.int64]) -> dict[str, Any]:
        configs = [self._config(kind) for kind in range(len(ARCHITECTURES))]
        texts = [(json.dumps(config.model.identity()), json.dumps(config.to_dict())) for config in configs]
        started = np.datetime64("2026-03-01T00:00:00", "us") + 60_000_000 * ended
        return {
            columns.ARCHITECTURE: [texts[kind][0] for kind in self._kinds[ended]],
            columns.CONFIG: [texts[kind][1] for kind in self._kinds[ended]],
            columns.DEVICE: ["cpu"] * len(ended),
            columns.STARTED_AT: started,
            columns.ENDED_AT: started + 50_000_000,
        }

    def _architectures_table(self) -> dict[str, Any]:
        keys = [json.dumps(self._config(kind).model.identity()) for kind in range(len(ARCHITECTURES))]
        latency = np.array([entry[1] for entry in ARCHITECTURES])
        table: dict[str, Any] = {columns.ARCHITECTURE: keys, columns.LATENCY_MS: latency, columns.SIZE_MB: 2 * latency}
        return table | {columns.DEVICE: ["cpu"] * len(keys), columns.FEASIBLE: [True] * len(keys)}


def _write(content: Mapping[str, Any], folder: Path, schema: pa.Schema) -> None:
    """One file of a table; columns not named are null."""
    folder.mkdir(parents=True)
    rows = len(content[schema.names[0]])
    arrays = [
        pa.nulls(rows, field.type) if field.name not in content else pa.array(content[field.name]).cast(field.type)
        for field in schema
    ]
    pq.write_table(pa.table(arrays, schema=schema), folder / "part-0.parquet")


def page_bytes(page: str) -> dict[str, Any]:
    """Bytes of the page, of each section's HTML and of each part of the data behind the charts and tables."""
    parts: dict[str, Any] = {"page": len(page.encode())}
    sections = re.findall(r'<section id="(\w+)".*?</section>', page, re.DOTALL)
    bodies = re.finditer(r'<section id="\w+".*?</section>', page, re.DOTALL)
    parts["sections"] = {name: len(body[0].encode()) for name, body in zip(sections, bodies, strict=True)}
    scripts = [script.encode() for script in re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)]
    parts["scripts"] = sorted(map(len, scripts), reverse=True)
    found = re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, re.DOTALL)
    assert found
    data = json.loads(found[1])
    parts["data"] = {name: len(json.dumps(value, separators=(",", ":"))) for name, value in data.items()}
    return parts


def measure(folder: Path, trials: int, epochs: int) -> dict[str, Any]:
    """Report a run of this size in a process of its own."""
    made = MadeUpRun(folder / NAME, trials, epochs)
    made.write()
    command = [sys.executable, "-m", "search.report", f"run={NAME}", f"runs={folder}"]
    began = time.perf_counter()
    peak_kb = int(subprocess.run([sys.executable, "-c", WATCHED, *command], check=True, stdout=subprocess.PIPE).stdout)
    took = time.perf_counter() - began
    page = (made.run.report / "index.html").read_text(encoding="utf-8")
    figures: dict[str, Any] = {"trials": trials, "epochs": epochs, "rows": int(made.run.read_epochs().num_rows)}
    figures |= {"seconds": round(took, 2), "peak_mb": round(peak_kb * 1024 / 1e6)}
    return figures | {"bytes": page_bytes(page), "device": cpu_model()}


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(measure(given.keep or Path(temporary), given.trials, given.epochs)))


if __name__ == "__main__":
    main()
