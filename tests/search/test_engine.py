"""Taking up a search after a kill, without Ray."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from search import columns
from search.architectures import ArchitectureTable
from search.config import ConstraintsConfig, LatencyConfig, SamplerConfig
from search.engine import Search
from search.ledger import Ledger
from search.resources import Share
from search.results import Table
from search.run_folder import RunFolder
from search.sampler import Sampler
from search.stopping import NoStopping
from spaces import Space
from trainers.config import TrialConfig

CONTRADICTION = {"model.architecture": "deeplab", "training.batch_size": 1}
SPACE = Space.from_dict(
    "contradictory",
    {
        "parameters": {"model.architecture": {"values": ["deeplab"]}, "training.batch_size": {"values": [1]}},
        "baselines": [CONTRADICTION],
    },
)


def open_search(run: RunFolder) -> tuple[Search, Sampler]:
    parameters = {"model.architecture": pa.string(), "training.batch_size": pa.int64()}
    trials = Table(run.results / "trials", columns.trials_schema(parameters, ["a"]))
    epochs = Table(run.results / "epochs", columns.epochs_schema(["a"]))
    architectures = ArchitectureTable(
        table=Table(run.results / "architectures", columns.architectures_schema()),
        latency=LatencyConfig(),
        constraints=ConstraintsConfig(),
        share=Share(1, 0, 1),
        node_cpus=2,
        num_classes=2,
    )
    sampler = Sampler(run.storage, SPACE, SamplerConfig(name="random"), 0)
    search = Search(
        run=run,
        base=TrialConfig(),
        num_trials=1,
        sampler=sampler,
        stopping=NoStopping(),
        architectures=architectures,
        ledger=Ledger(trials, epochs, []),
        trials=trials,
    )
    return search, sampler


def test_contradictory_draw_left_by_a_kill_is_recorded_on_resume(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    _, sampler = open_search(run)
    assert sampler.ask() is not None  # killed here, before the refusal was recorded

    resumed, _ = open_search(run)
    with pytest.raises(StopIteration):
        resumed.next_trial()
    (row,) = run.read_trials().to_pylist()
    assert (row[columns.TRIAL_ID], row[columns.STATE]) == ("t0000", columns.FAILED)
    assert "training.batch_size" in row[columns.REASON]
