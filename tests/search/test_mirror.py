"""A run's record on W&B: the real client, against a loopback server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from untrained_search import TRACKED, begin, play, report
from wandb_server import Fault, WandbServer

from search import columns
from search.config import ConstraintsConfig, TrackingConfig
from search.engine import Search
from search.ledger import TrialRecord
from search.run_folder import FINISHED, RunFolder
from search.tracking import mirror as mirror_module
from search.tracking import sitting as sitting_module
from search.tracking.client import renew_service
from search.tracking.follower import Follower
from search.tracking.place import Place, TrackingError, remember, remembered_place
from search.tracking.sitting import Sitting
from search.tracking.sweep import open_sweep
from trainers.config import TrialConfig


@pytest.fixture(scope="module")
def server() -> Iterator[WandbServer]:
    with WandbServer() as server, pytest.MonkeyPatch.context() as patch:
        # These are written while a run is mirrored into the environment: so they are restored.
        own = {"WANDB_PROJECT": "segmentation-search", "WANDB_ENTITY": "tester", "WANDB_DIR": "."}
        for name, value in (server.environment() | own).items():
            patch.setenv(name, value)
        wandb.teardown()
        yield server
        wandb.teardown()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / tmp_path.name)


def begun(search: Search) -> TrialRecord:
    trial = search.next_trial()
    assert trial is not None
    return trial


def mirrored(run: RunFolder) -> Place:
    Sitting(run, TrackingConfig(), online=True).mirror()
    place = remembered_place(run)
    assert place is not None
    return place


def epochs(server: WandbServer, place: Place, trial_id: str) -> list[int]:
    return [row[columns.EPOCH] for row in server.runs[place.run_id(trial_id)].history]


def test_every_end_is_told_as_what_it_is(server: WandbServer, run: RunFolder) -> None:
    content = TRACKED | {"parameters": {"optimizer.lr": {"values": [1e-2, 1e-3, 1e-4]}}}
    search, _ = begin(run, content, num_trials=3)
    stopped, failed, completed = (begun(search) for _ in range(3))
    run.stop_request(stopped.trial_id).write_text("hopeless")
    report(search, stopped)
    search.end(stopped.trial_id)
    report(search, failed)
    search.end(failed.trial_id, "out of memory")
    while not report(search, completed):
        pass
    search.end(completed.trial_id)
    run.write_status(FINISHED)

    place = mirrored(run)
    assert server.sweeps[str(place.sweep_id)].states == ["RUNNING", "FINISHED"]
    expected = {
        stopped.trial_id: ("finished", 0, "stopped", "hopeless"),
        failed.trial_id: ("failed", 1, "failed", "out of memory"),
        completed.trial_id: ("finished", 0, "completed", None),
    }
    for trial_id, (state, code, ours, reason) in expected.items():
        there = server.runs[place.run_id(trial_id)]
        assert (there.state, there.exit_code, there.tags) == (state, code, [ours])
        assert (there.summary[columns.STATE], there.summary.get(columns.REASON)) == (ours, reason)
        assert there.sweep == place.sweep_id
        assert there.group == run.name
    assert server.unknown == []


def test_rows_have_the_profiled_objectives_and_the_time_they_were_recorded(server: WandbServer, run: RunFolder) -> None:
    search, _ = begin(run, num_trials=1)
    play(search)
    place = mirrored(run)
    recorded = run.read_epochs().to_pylist()
    history = server.runs[place.run_id("t0000")].history
    assert [row[columns.EPOCH] for row in history] == [row[columns.EPOCH] for row in recorded]
    for sent, row in zip(history, recorded, strict=True):
        assert (sent[columns.LATENCY_MS], sent[columns.SIZE_MB]) == (5.0, 3.0)
        assert sent[columns.MIOU] == row[columns.MIOU]
        assert sent["_timestamp"] == pytest.approx(row[columns.REPORTED_AT].timestamp(), abs=1e-3)


def test_the_configuration_leaves_out_what_other_choices_left_no_place_for(server: WandbServer, run: RunFolder) -> None:
    search, space = begin(run, num_trials=8)
    play(search, concurrent=4)
    place = mirrored(run)
    kinds = set()
    for row in run.read_trials().to_pylist():
        config = server.runs[place.run_id(row[columns.TRIAL_ID])].config
        optimizer = config["optimizer"]
        kinds.add(optimizer["name"])
        assert optimizer["lr"] == row["optimizer.lr"]
        assert ("momentum" in optimizer) == (optimizer["name"] == "sgd")
        assert config["training"] == json.loads(row[columns.CONFIG])["training"]
    assert kinds == {"adam", "sgd"}
    assert server.sweeps[str(place.sweep_id)].config["parameters"] == space.sweep_parameters()


def test_what_never_trained_has_a_run_too(server: WandbServer, run: RunFolder) -> None:
    content = {"parameters": {"optimizer.lr": {"values": [1e-2, 1e-3]}}}
    search, _ = begin(run, content, num_trials=1, constraints=ConstraintsConfig(latency_ms=1.0))
    with pytest.raises(StopIteration):
        search.next_trial()
    place = mirrored(run)
    (row, *_) = run.read_trials().to_pylist()
    there = server.runs[place.run_id(row[columns.TRIAL_ID])]
    assert (there.history, there.tags, there.state) == ([], ["infeasible"], "finished")
    assert there.summary[columns.REASON] == "latency_ms 5 > 1"
    assert there.summary[columns.LATENCY_MS] == 5.0


def test_what_is_there_is_not_sent_again(server: WandbServer, run: RunFolder) -> None:
    search, _ = begin(run, num_trials=2)
    first, second = begun(search), begun(search)
    report(search, first)
    search.close()
    place = mirrored(run)
    assert server.sweeps[str(place.sweep_id)].state == "PAUSED"
    assert server.runs[place.run_id("t0000")].tags == ["interrupted"]

    resumed, _ = begin(run, num_trials=2)
    play(resumed, concurrent=2)
    run.write_status(FINISHED)
    sweeps, runs = len(server.sweeps), len(server.runs)
    assert mirrored(run) == place
    assert (len(server.sweeps), len(server.runs)) == (sweeps, runs)
    assert server.sweeps[str(place.sweep_id)].states == ["RUNNING", "PAUSED", "RUNNING", "FINISHED"]
    budget = list(range(1, first.config.training.epochs + 1))
    assert epochs(server, place, first.trial_id) == epochs(server, place, second.trial_id) == budget
    assert server.runs[place.run_id("t0000")].tags == ["completed"]

    before = len(server.requests)
    assert mirrored(run) == place
    assert "file_stream" not in "".join(item for item in server.requests[before:] if "-t0" in item)


def test_a_sweep_whose_id_was_lost_in_a_kill_is_found_again(server: WandbServer, run: RunFolder) -> None:
    search, space = begin(run, num_trials=1)
    play(search)
    place = mirrored(run)
    sweeps = len(server.sweeps)
    remember(run, Place(place.host, place.entity, place.project, place.key))
    assert open_sweep(run, Place(place.host, place.entity, place.project, place.key), space).path == place.path
    assert len(server.sweeps) == sweeps


def test_rows_that_the_server_refused_are_missed_and_sent_by_who_comes_next(
    server: WandbServer, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, _ = begin(run, num_trials=1)
    play(search)
    end = mirror_module.Mirror._end

    def refused(*arguments: object) -> None:
        server.fault = Fault(status=403)  # as for a project over its quota: the client ends the run without complaint
        end(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(mirror_module.Mirror, "_end", refused)
    with pytest.raises(TrackingError, match=r"refuses the API key found here \(HTTP 403\)"):
        mirrored(run)
    server.fault = None
    monkeypatch.undo()
    place = mirrored(run)
    assert epochs(server, place, "t0000") == list(range(1, TrialConfig().training.epochs + 1))
    assert server.runs[place.run_id("t0000")].state == "finished"


def test_a_trial_that_cannot_be_sent_does_not_keep_the_others(server: WandbServer, run: RunFolder) -> None:
    search, _ = begin(run, num_trials=3)
    play(search)
    (run.trials / "t0001" / "config.yaml").write_text("model: {architecture: nonsense}")
    with pytest.raises(TrackingError, match=r"1 trial could not be sent to W&B, the first t0001: .*nonsense"):
        mirrored(run)
    place = remembered_place(run)
    assert place is not None
    assert server.runs[place.run_id("t0000")].state == server.runs[place.run_id("t0002")].state == "finished"
    assert place.run_id("t0001") not in server.runs


def test_no_more_runs_are_open_than_files_allow(
    server: WandbServer, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "most_runs", lambda: 4)
    search, space = begin(run, num_trials=3)
    trials = [begun(search) for _ in range(3)]
    place = open_sweep(run, remember(run, Place(server.url, None, "few-files", "k")), space)
    mirror = mirror_module.Mirror(run, place, space, online=True)
    follower = Follower(run)
    for _ in range(2):
        for trial in trials:
            report(search, trial)
        search.ledger._epoch_rows.flush()
        mirror.update(follower.poll())
        assert [trial.trial_id for trial in trials if place.run_id(trial.trial_id) in server.runs] == ["t0000", "t0001"]
    for trial in trials:
        search.end(trial.trial_id)
    mirror.update(follower.poll())
    mirror.finish()
    assert all(epochs(server, place, trial.trial_id) == [1, 2] for trial in trials)


def test_a_service_without_files_left_is_followed_by_another(
    server: WandbServer, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "most_runs", lambda: 4)
    services: list[str] = []

    def counted() -> None:
        services.append("another")
        renew_service()

    monkeypatch.setattr(sitting_module, "renew_service", counted)
    search, _ = begin(run, num_trials=10)
    play(search, concurrent=3)
    place = mirrored(run)
    assert len(services) == 2, "four runs, four, and two"
    budget = list(range(1, TrialConfig().training.epochs + 1))
    assert all(epochs(server, place, f"t{index:04d}") == budget for index in range(10))


def test_stop_run_on_the_site_asks_the_search_to_stop_the_trial(server: WandbServer, run: RunFolder) -> None:
    search, space = begin(run, num_trials=1)
    trial = begun(search)
    report(search, trial)
    search.close()
    place = mirrored(run)
    server.stop_run(place.run_id(trial.trial_id))
    resumed, _ = begin(run, num_trials=1)
    trial = begun(resumed)
    mirror = mirror_module.Mirror(run, place, space, online=True)
    mirror.update(Follower(run).poll())
    wait_for(run.stop_request(trial.trial_id))
    report(resumed, trial)
    resumed.end(trial.trial_id)
    mirror.finish()
    (row,) = run.read_trials().to_pylist()
    assert (row[columns.STATE], row[columns.REASON]) == (columns.STOPPED, "stopped by hand on W&B")


def wait_for(path: Path) -> None:
    for _ in range(1200):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")
