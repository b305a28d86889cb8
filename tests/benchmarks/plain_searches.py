"""Searches as people write them today, over :mod:`plain_trial`: Ray Tune, Optuna with joblib, a process a trial.

``python tests/benchmarks/plain_searches.py WAY ROOT FOLDER TRIALS AT_ONCE`` trains all trials of the JSON list TRIALS,
so many at once, and prints the best mIoU. WAY is one of

- ``ray``: Ray's published recipe, a function that reports each epoch, by default in a new process for each trial.
- ``joblib``: Optuna studies in joblib's processes, which share a storage and are used again for the next trial.
- ``agent``: agents that start a process for each trial, as those of W&B's sweeps do.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Trials = Sequence[Mapping[str, Any]]


def with_ray(root: Path, folder: Path, trials: Trials, at_once: int) -> float:
    """Ray Tune's function API."""
    from ray import init, tune

    def trainable(config: Mapping[str, Any]) -> None:
        from plain_trial import train

        for miou in train(root, Path.cwd(), config["trial"]):
            tune.report({"miou": miou})

    init(num_cpus=at_once, include_dashboard=False)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"trial": tune.grid_search(list(trials))},
        run_config=tune.RunConfig(storage_path=str(folder / "ray"), verbose=0),
    )
    best = tuner.fit().get_best_result("miou", "max", scope="all").metrics
    assert best is not None
    return float(best["miou"])


def optimize(root: Path, folder: Path, trials: Trials, number: int) -> None:
    """One of joblib's processes: so many trials of the shared study."""
    import optuna
    from plain_trial import train

    def objective(trial: optuna.Trial) -> float:
        own = folder / str(trial.number)
        own.mkdir()
        return max(train(root, own, trials[trial.suggest_categorical("index", range(len(trials)))]))

    study(folder).optimize(objective, n_trials=number)


def study(folder: Path) -> Any:
    """The study that the processes share."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "journal")))
    return optuna.create_study(storage=storage, study_name="plain", direction="maximize", load_if_exists=True)


def with_joblib(root: Path, folder: Path, trials: Trials, at_once: int) -> float:
    """Optuna's study in several processes."""
    from joblib import Parallel, delayed

    shared = study(folder)
    for index in range(len(trials)):
        shared.enqueue_trial({"index": index})
    numbers = [len(trials[start::at_once]) for start in range(at_once)]
    Parallel(n_jobs=at_once)(delayed(optimize)(root, folder, trials, number) for number in numbers)
    return float(shared.best_value)


def with_agents(root: Path, folder: Path, trials: Trials, at_once: int) -> float:
    """A new Python process for each trial."""

    def run(number: int) -> float:
        own = folder / str(number)
        script = str(Path(__file__).with_name("plain_trial.py"))
        subprocess.run([sys.executable, script, str(root), str(own), json.dumps(trials[number])], check=True)
        return float(max(json.loads((own / "miou.json").read_text())))

    with ThreadPoolExecutor(at_once) as agents:
        return max(agents.map(run, range(len(trials))))


WAYS: dict[str, Callable[[Path, Path, Trials, int], float]] = {
    "ray": with_ray,
    "joblib": with_joblib,
    "agent": with_agents,
}


def main() -> None:
    """Search one way."""
    way, root, folder, trials, at_once = sys.argv[1:]
    Path(folder).mkdir(parents=True)
    print(json.dumps({"miou": WAYS[way](Path(root), Path(folder), json.loads(trials), int(at_once))}))


if __name__ == "__main__":
    main()
