"""What the loopback W&B server must have of a run, whatever happened on the way."""

from __future__ import annotations

from wandb_server import WandbServer

from search import columns
from search.config import load_config
from search.run_folder import RunFolder
from search.tracking.place import Place, remembered_place
from spaces import Space


def place_of(run: RunFolder) -> Place:
    """Where the run is mirrored to."""
    place = remembered_place(run)
    assert place is not None
    return place


def assert_on_wandb(server: WandbServer, run: RunFolder) -> None:
    """One finished sweep with the space's parameters; every trial once, whole and with its end; and the search."""
    place, config = place_of(run), load_config(run.config)
    (sweep,) = (sweep for sweep in server.sweeps.values() if sweep.config["name"] == run.name)
    assert (sweep.id, sweep.state) == (place.sweep_id, "FINISHED")
    assert sweep.config["parameters"] == Space.from_dict(config.space_name, config.space).sweep_parameters()
    trials = run.read_trials().to_pylist()
    mine = {run_id: there for run_id, there in server.runs.items() if there.group == run.name}
    expected = {place.run_id(row[columns.TRIAL_ID]) for row in trials}
    assert {run_id for run_id, there in mine.items() if there.sweep == sweep.id} == expected
    assert mine.keys() - expected == {place.run_id("summary")}
    recorded = {(row[columns.TRIAL_ID], row[columns.EPOCH]): row for row in run.read_epochs().to_pylist()}
    for row in trials:
        there = mine[place.run_id(row[columns.TRIAL_ID])]
        assert (there.tags, there.summary[columns.STATE]) == ([row[columns.STATE]], row[columns.STATE])
        assert there.state == ("failed" if row[columns.STATE] == columns.FAILED else "finished")
        assert there.config["optimizer"]["lr"] == row["optimizer.lr"]
        assert [sent[columns.EPOCH] for sent in there.history] == list(range(1, row[columns.EPOCH] + 1))
        for sent in there.history:
            assert sent[columns.MIOU] == recorded[row[columns.TRIAL_ID], sent[columns.EPOCH]][columns.MIOU]
            assert sent[columns.LATENCY_MS] == row[columns.LATENCY_MS]
    assert "front" in mine[place.run_id("summary")].summary
    assert server.unknown == []
