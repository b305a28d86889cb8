"""How long does a whole search take, ours against what people write today? Same trials, epochs, images and machine.

``python tests/benchmarks/whole_search.py [--trials 8] [--epochs 6] [--images 64] [--source 720 960] [--turns 1]``
draws scenes as PNG files, by default of CamVid's size, and prints one JSON line a way and turn: wall-clock time from
the start of the command to its end, with imports, measurement of latency, report and whatever else belongs to it.

- ``ours``: ``python -m search.run`` with a grid over models of segmentation_models.pytorch, without early stopping.
- ``ours_stopping``: the same with the default rule.
- ``ray``, ``joblib``, ``agent``: :mod:`plain_searches`, with the same models.

The last line of a turn has ``fastest_plain_over_ours`` and the same of ``ours_stopping``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import yaml
from data_path import write_files
from plain_searches import WAYS

from search import columns
from search.run_folder import RunFolder
from trainers.profiling import cpu_model

SIZE = (96, 128)
BATCH = 8
DECODERS = ("Unet", "FPN", "Linknet", "DeepLabV3Plus")
ENCODERS = ("resnet18", "mobilenet_v2")
RATES = (1e-3, 3e-3, 3e-4)
OURS = {"ours": ["scheduler.name=none"], "ours_stopping": []}


def trials(number: int, epochs: int) -> list[dict[str, Any]]:
    """The first configurations of the grid: all models at one rate, then at the next."""
    found = [
        {"architecture": decoder, "backbone": encoder, "lr": rate, "size": SIZE, "batch": BATCH, "epochs": epochs}
        for rate, decoder, encoder in itertools.product(RATES, DECODERS, ENCODERS)
    ]
    return found[:number]


def write_space(folder: Path, wanted: list[dict[str, Any]]) -> None:
    """The same trials as a space of ours: its baselines."""
    offered: dict[str, list[Any]] = {"model.architecture": [f"smp.{decoder}" for decoder in DECODERS]}
    offered |= {"model.backbone": list(ENCODERS), "optimizer.lr": list(RATES)}
    parameters = {path: {"values": values} for path, values in offered.items()}
    baselines = [
        {"model.architecture": f"smp.{each['architecture']}", "model.backbone": each["backbone"]}
        | {"optimizer.lr": each["lr"]}
        for each in wanted
    ]
    fixed = {"augmentation.policy": "light", "optimizer.name": "adam", "training.batch_size": BATCH}
    (folder / "space").mkdir(parents=True)
    content = {"question": "Which is best?", "parameters": parameters, "baselines": baselines, "fixed": fixed}
    (folder / "space" / "plain.yaml").write_text(yaml.safe_dump(content))


def run_ours(root: Path, folder: Path, wanted: list[dict[str, Any]], settings: list[str]) -> float:
    """The best mIoU of a search of ours."""
    write_space(folder / "conf", wanted)
    asked = ["--config-dir", str(folder / "conf"), "space=plain", f"runs={folder}", "run=ours", "tracking.mode=off"]
    asked += ["data.name=folder", f"data.root={root}", f"data.height={SIZE[0]}", f"data.width={SIZE[1]}"]
    asked += [f"data.cache={folder}", f"num_trials={len(wanted)}", f"training.epochs={wanted[0]['epochs']}"]
    run([sys.executable, "-m", "search.run", *asked, *settings])
    ended = RunFolder(folder / "ours").read_trials()
    assert set(ended.column(columns.STATE).to_pylist()) <= {columns.COMPLETED, columns.STOPPED}
    return float(pc.max(ended.column(columns.MIOU)).as_py())


def run_plain(way: str, root: Path, folder: Path, wanted: list[dict[str, Any]], at_once: int) -> float:
    """The best mIoU of one of the plain searches."""
    script = str(Path(__file__).with_name("plain_searches.py"))
    said = run([sys.executable, script, way, str(root), str(folder / "plain"), json.dumps(wanted), str(at_once)])
    return float(json.loads(said.splitlines()[-1])["miou"])


def run(command: list[str]) -> str:
    """What it prints; its errors are shown when it fails."""
    places = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    quiet = {"PYTHONPATH": places, "OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def turn(root: Path, wanted: list[dict[str, Any]], at_once: int, ways: list[str]) -> dict[str, float]:
    """Seconds of each way, one after the other; each is printed when it has ended."""
    taken: dict[str, float] = {}
    for way in ways:
        with tempfile.TemporaryDirectory() as name:
            started = time.perf_counter()
            if way in OURS:
                miou = run_ours(root, Path(name), wanted, OURS[way])
            else:
                miou = run_plain(way, root, Path(name), wanted, at_once)
            taken[way] = time.perf_counter() - started
        size = {"trials": len(wanted), "epochs": wanted[0]["epochs"]}
        show({"way": way} | size | {"wall_s": round(taken[way], 1), "miou": round(miou, 3)})
    return taken


def show(line: dict[str, Any]) -> None:
    """One line of the output."""
    print(json.dumps({"benchmark": "whole_search", "device": cpu_model()} | line), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--source", type=int, nargs=2, default=(720, 960), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--at-once", type=int, default=os.cpu_count())
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=[*OURS, *WAYS], choices=[*OURS, *WAYS])
    given = parser.parse_args()
    wanted = trials(given.trials, given.epochs)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "files"
        height, width = given.source
        write_files(root, height, width, given.images, validation=max(8, given.images // 4))
        for _ in range(given.turns):
            taken = turn(root, wanted, given.at_once, given.ways)
            plain = [taken[way] for way in WAYS if way in taken]
            ratios = {f"fastest_plain_over_{way}": min(plain) / taken[way] for way in OURS if plain and way in taken}
            show({name: round(ratio, 2) for name, ratio in ratios.items()})


if __name__ == "__main__":
    main()
