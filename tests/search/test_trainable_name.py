"""What a trial is called in Ray while it trains: on a real cluster, with actors that are reused and that die."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray
from ray import tune
from ray.tune.result import DONE

from cluster.connect import connect
from search import trainable, tune_bridge
from search.capacity import Capacity, Patience
from search.cluster_config import ResourcesConfig
from search.engine import Search
from search.resources import Share, Sharing

EPOCHS = 2


class Told:
    """Stands in for the search: hands out trials, and keeps what it is told of them."""

    def __init__(self, folder: Path, trials: list[str]) -> None:
        self._folder, self._left, self._number = folder, list(trials), len(trials)
        self.epochs: dict[str, list[dict[str, Any]]] = {}
        self.ended: dict[str, str | None] = {}

    def rest(self) -> None:
        pass

    def next_trial(self) -> Any:
        if self._left:
            return SimpleNamespace(trial_id=self._left.pop(0), config=None, architecture=None)
        if len(self.ended) < self._number:
            return None
        raise StopIteration

    def again(self, trial_id: str) -> None:
        self._left.insert(0, trial_id)

    def tune_config(self, trial: Any, share: Share) -> dict[str, Any]:
        keys = trainable.TRIAL_ID, trainable.FOLDER, trainable.THREADS, trainable.GPUS, trainable.WORKERS
        values = trial.trial_id, str(self._folder / trial.trial_id), share.cpus, share.gpus, share.workers
        return dict(zip(keys, values, strict=True))

    def report(self, trial_id: str, result: dict[str, Any]) -> None:
        self.epochs.setdefault(trial_id, []).append(dict(result))

    def stop_reason(self, trial_id: str, result: dict[str, Any]) -> None:
        pass

    def end(self, trial_id: str, process_error: str | None = None) -> None:
        self.ended[trial_id] = process_error


def actor_that_tells() -> type[tune.Trainable]:
    """Defined here and not in the module, which Ray's workers could not import; and they need no torch."""
    folder_key = trainable.FOLDER

    class Actor(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:  # noqa: ARG002
            self._epoch = 0

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.config, self._epoch = new_config, 0
            return True

        def step(self) -> dict[str, Any]:
            self._epoch += 1
            folder = Path(self.config[folder_key])
            if folder.name == "t0001" and not folder.exists():
                folder.mkdir(parents=True)
                os._exit(1)
            title = Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode()
            name = ray.get_runtime_context().get_task_name()
            return {"name": name, "title": title, "process": os.getpid(), DONE: self._epoch == EPOCHS}

    return Actor


@pytest.mark.slow
def test_every_epoch_runs_under_the_name_of_its_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainable, "TrialActor", actor_that_tells())
    told = Told(tmp_path / "mine" / "trials", ["t0000", "t0001", "t0002"])
    with connect(None) as nodes:
        sharing = Sharing(Share(cpus=1, gpus=0, concurrent=1), ResourcesConfig(max_concurrent_trials=1), nodes)
        patience = Patience(print, None, capacity := Capacity())
        tune_bridge.run_trials(cast("Search", told), sharing, capacity, patience, tmp_path / "ray")
    assert told.ended == dict.fromkeys(("t0000", "t0001", "t0002"))
    for trial, epochs in told.epochs.items():
        assert [epoch["name"] for epoch in epochs] == [f"mine/{trial}"] * EPOCHS
        assert {epoch["title"] for epoch in epochs} == {f"ray::mine/{trial}"}
    processes = [{epoch["process"] for epoch in epochs} for epochs in told.epochs.values()]
    assert len(set.union(*processes)) == 2, "t0000 in one; t0001, after its death, and t0002 in another"
    assert processes[1] == processes[2] != processes[0]
