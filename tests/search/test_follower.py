"""Following a search's record while it is written: every row once, whatever is merged meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from untrained_search import RATES, open_search, report

from search import columns
from search.engine import Search
from search.ledger import TrialRecord
from search.run_folder import RunFolder
from search.tracking.follower import Follower, TrialNews


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def begun(search: Search) -> TrialRecord:
    trial = search.next_trial()
    assert trial is not None
    return trial


def told(news: list[TrialNews]) -> list[tuple[str, list[int], str | None]]:
    return [
        (item.trial_id, [row[columns.EPOCH] for row in item.epochs], None if item.end is None else item.end["state"])
        for item in news
    ]


def test_tells_starts_epochs_and_ends_once(run: RunFolder) -> None:
    follower = Follower(run)
    assert follower.poll() == []
    search, _ = open_search(run, RATES, num_trials=2)
    first = begun(search)
    assert told(follower.poll()) == [("t0000", [], None)]
    report(search, first)
    begun(search)
    report(search, first)
    search.end("t0000")
    assert told(follower.poll()) == [("t0001", [], None), ("t0000", [1, 2], columns.COMPLETED)]
    assert follower.poll() == []


def test_merging_tells_nothing_twice_and_hides_nothing(run: RunFolder) -> None:
    search, _ = open_search(run, RATES, num_trials=3)
    follower, late = Follower(run), Follower(run)
    for _ in range(2):
        trial = begun(search)
        report(search, trial)
        report(search, trial)
        search.end(trial.trial_id)
    seen = told(follower.poll())
    search.ledger.compact()
    assert follower.poll() == []
    assert told(late.poll()) == seen == [("t0000", [1, 2], "completed"), ("t0001", [1, 2], "completed")]


def test_a_file_that_is_merged_while_it_is_read_waits_for_the_next_look(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, _ = open_search(run, RATES, num_trials=1)
    follower, trial = Follower(run), begun(search)
    report(search, trial)
    report(search, trial)
    search.end(trial.trial_id)
    unread, merge = follower._unread, [search.ledger.compact]

    def merged_between(table: str) -> object:
        if table == "epochs" and merge:
            found = sorted((run.results / table).glob("*.parquet"))
            merge.pop()()
            raise FileNotFoundError(found[0])
        return unread(table)

    monkeypatch.setattr(follower, "_unread", merged_between)
    assert follower.poll() == []
    assert told(follower.poll()) == [("t0000", [1, 2], "completed")]


def test_a_trial_that_was_interrupted_and_goes_on_ends_again(run: RunFolder) -> None:
    search, _ = open_search(run, RATES)
    follower, trial = Follower(run), begun(search)
    report(search, trial)
    search.close()
    assert told(follower.poll()) == [("t0000", [1], columns.INTERRUPTED)]
    resumed, _ = open_search(run, RATES)
    trial = begun(resumed)
    report(resumed, trial)
    resumed.end("t0000")
    assert told(follower.poll()) == [("t0000", [2], columns.COMPLETED)]
