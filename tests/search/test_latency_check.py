"""The front's latency measured again at the end: what is recorded, said and shown, and that nothing fails for it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from measured import CPU, add_rows, architectures_in, profile_of, row_of
from run_samples import PROFILES, add_trial, begin_run, config_of

from cluster.connect import connect
from cluster.nodes import ClusterError, Node
from search import architectures, columns, latency_check
from search.architectures import ArchitectureTable, Measurement
from search.latency_check import LatencyCheck, check_latencies, measure_again, show_latency_check, told
from search.reporting.record import read_record
from search.reporting.tables import architectures_table
from search.run_folder import RunFolder
from trainers.config import TrialConfig
from trainers.profiling import ArchitectureProfile
from trainers.settings import ConfigError

FAST, SLOW = (config_of(PROFILES[index][0], 1e-3) for index in (0, 1))
FIRST_MS = {"small": 5.0, "medium": 60.0}


def check_of(first_ms: float, again_ms: float, spread: float = 0.0, device: str = CPU) -> LatencyCheck:
    first = row_of(FAST, first_ms, latency_spread=spread)
    return LatencyCheck(first, row_of(FAST, again_ms, latency_spread=spread, device_name=device))


@pytest.mark.parametrize(
    ("first_ms", "again_ms", "spread", "trusted"),
    [
        (10.0, 10.5, 0.0, True),
        (10.0, 10.6, 0.0, False),
        (10.6, 10.0, 0.0, False),
        (10.0, 10.6, 0.02, True),  # the middle halves come within 0.4 ms
        (10.0, 11.0, 0.02, False),
    ],
)
def test_medians_may_differ_by_five_percent_beyond_their_spread(
    first_ms: float, again_ms: float, spread: float, trusted: bool
) -> None:
    check = check_of(first_ms, again_ms, spread)
    assert check.trusted is trusted
    assert check.apart == pytest.approx(max(first_ms, again_ms) / min(first_ms, again_ms) - 1)


def test_what_is_said() -> None:
    good, bad = check_of(10.0, 10.1), check_of(10.0, 13.0)
    assert told([]) == []
    assert told([good]) == ["Latency of the front measured again, 1 architecture: the medians lie at most 1.0% apart"]
    summary, warning = told([good, bad])
    assert summary == "Latency of the front measured again, 2 architectures: the medians lie at most 30.0% apart"
    assert warning == (
        "Warning: latency of unet (base channels 16, size small): 10 ms at first, 13 ms now, 30% apart, so the machine "
        "was not idle during one of the two measurements. The search used the first; the next search measures afresh."
    )


def test_two_kinds_of_processor_are_not_compared() -> None:
    summary, sentence = told([check_of(10.0, 30.0, device="another processor")])
    assert summary == "Latency of the front measured again, 1 architecture"
    assert f"on different devices ({CPU} at first, another processor now)" in sentence


class Machine:
    """In place of the cluster: measures what it is told to, and notes what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **latencies_ms: float) -> None:
        self.asked: list[str] = []
        self._latencies_ms = latencies_ms
        monkeypatch.setattr(ArchitectureTable, "run_task", self.run)

    def run(self, task: object, trial: TrialConfig, *_: object, claim: bool, timeout_s: float) -> ArchitectureProfile:
        assert task is measure_again
        assert claim, "nothing else may run"
        assert timeout_s > 0
        self.asked.append(trial.model.size)
        if trial.model.size not in self._latencies_ms:
            raise ConfigError("no measurement today")
        return profile_of(trial, self._latencies_ms[trial.model.size], latency_p95_ms=99.0)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run whose front has two architectures, one of them twice."""
    sample = begin_run(tmp_path / "run")
    for index, (profile, miou, latency_ms) in enumerate([(0, 0.4, 5.0), (0, 0.41, 5.0), (1, 0.6, 60.0)]):
        size: dict[str, Any] = {columns.SIZE_MB: latency_ms - miou, columns.LATENCY_MS: latency_ms}
        add_trial(sample, index, columns.COMPLETED, profile, epochs=1, miou=miou, **size)
    add_rows(sample.folder.path, *(row_of(trial, FIRST_MS[trial.model.size]) for trial in (FAST, SLOW)))
    return sample.run


def checked(run: RunFolder) -> list[LatencyCheck]:
    return check_latencies(run, read_record(run).front_rows, architectures_in(run.path))


def test_each_architecture_of_the_front_is_measured_once_more(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, small=5.1, medium=61.0)
    checks = checked(run)
    assert machine.asked == ["small", "medium"]
    pairs = [(check.first[columns.LATENCY_MS], check.again[columns.LATENCY_MS]) for check in checks]
    assert pairs == [(5.0, 5.1), (60.0, 61.0)]
    figures = [(5.1, 99.0, CPU), (61.0, 99.0, CPU)]
    names = (columns.LATENCY_MS, columns.LATENCY_P95_MS, columns.DEVICE_NAME)
    assert [tuple(row[name] for name in names) for row in run.read_latency_checks().to_pylist()] == figures
    assert [row[columns.LATENCY_MS] for row in run.read_architectures().to_pylist()] == [5.0, 60.0]
    assert checked(run) == []
    assert machine.asked == ["small", "medium"]


def test_after_a_failure_only_what_is_missing_is_measured(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, small=5.1)
    said: list[str] = []
    show_latency_check(run, architectures_in(run.path), said.append)
    assert said == ["The latency of the front was not measured again: ConfigError: no measurement today"]
    machine = Machine(monkeypatch, medium=66.0)
    said.clear()
    show_latency_check(run, architectures_in(run.path), said.append)
    assert machine.asked == ["medium"]
    assert said[0] == "Latency of the front measured again, 1 architecture: the medians lie at most 10.0% apart"
    assert said[1].startswith("Warning: latency of unet (base channels 64, size medium): 60 ms at first, 66 ms now")


def test_ctrl_c_goes_on_to_the_report(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(latency_check, "check_latencies", interrupt)
    said: list[str] = []
    show_latency_check(run, architectures_in(run.path), said.append)
    (sentence,) = said
    assert sentence.endswith(f"To have it: python -m search.run {run.argument('resume')}")


def test_without_a_node_for_it_nobody_waits(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "alive_nodes", lambda: (Node(0, 0, "head", "1"),))
    said: list[str] = []
    show_latency_check(run, architectures_in(run.path), said.append)
    assert said == ["The latency of the front was not measured again: no node with 1 CPU core is there any more."]


def test_the_report_shows_both_figures(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    add_rows(run.path, row_of(FAST.replace({"model.base_channels": 99}), 70.0))
    Machine(monkeypatch, small=5.12, medium=61.0)
    checked(run)
    table = architectures_table(read_record(run))
    places = [[column.key for column in table.columns].index(name) for name in (columns.LATENCY_MS, "latency_again_ms")]
    shown = [[row.cells[place].text for place in places] for row in table.rows]
    assert shown == [["5.00", "5.12"], ["60.0", "61.0"], ["70.0", "–"]]
    assert table.columns[places[1]].heading == "measured again, ms"


def test_a_figure_in_doubt_is_forgotten_where_it_was_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = FAST.replace({"data.cache": str(tmp_path)})
    work = Measurement(trial, 5, architectures_in(tmp_path)._latency, 1, 1)
    forgotten: list[Measurement] = []
    monkeypatch.setattr(latency_check, "forget", forgotten.append)
    for again_ms, device in ((10.1, CPU), (13.0, "another processor"), (13.0, CPU)):
        profile = profile_of(trial, again_ms, device_name=device)
        monkeypatch.setattr(latency_check, "profile_now", lambda _, found=profile: found)
        assert measure_again(work, row_of(trial, 10.0)) == profile
    assert forgotten == [work]


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    """A Ray cluster on this machine."""
    with connect(None):
        yield


@pytest.mark.usefixtures("_cluster")
def test_a_node_that_goes_meanwhile_is_not_waited_for(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([(Node(1, 0, "worker", "1"),)])
    monkeypatch.setattr(architectures, "alive_nodes", lambda: next(looks, ()))
    with pytest.raises(ClusterError, match=r"^no node with 1 CPU core is there any more\.$"):
        architectures_in(run.path).run_task(lambda _: time.sleep(60), FAST, claim=True, timeout_s=60)


@pytest.mark.usefixtures("_cluster")
def test_an_answer_is_waited_for_as_long_as_said(run: RunFolder) -> None:
    with pytest.raises(ClusterError, match=r"^there was no answer within 0\.5 s\.$"):
        architectures_in(run.path).run_task(lambda _: time.sleep(60), FAST, claim=True, timeout_s=0.5)


@pytest.mark.slow
@pytest.mark.usefixtures("_cluster")
def test_on_a_cluster(run: RunFolder) -> None:
    def fail(_: object) -> None:
        raise ConfigError("latency.compile=true, but nothing compiles here.")

    table = architectures_in(run.path)
    with pytest.raises(ConfigError, match=r"^latency.compile=true, but nothing compiles here\.$"):
        table.run_task(fail, FAST, claim=True)

    tiny = TrialConfig().replace(
        {"model.size": "small", "model.base_channels": 2, "data.height": 32, "data.width": 32, "training.device": "cpu"}
    )
    add_rows(run.path, row_of(tiny, 1e-3, device_name="a processor that is no longer there"))
    member = {columns.CONFIG: json.dumps(tiny.to_dict())}
    (check,) = check_latencies(run, [member], architectures_in(run.path))
    assert check.again[columns.LATENCY_MS] > 1e-3
    assert not check.comparable
    (row,) = run.read_latency_checks().to_pylist()
    assert row == check.again
