"""The Parquet tables: whole or absent, open to everyone, and no row twice."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from search import results
from search.results import ResultsError, Table, last_rows, read_table

ROOT = Path(__file__).parents[2]
SCHEMA = pa.schema(
    [("trial_id", pa.string()), ("epoch", pa.int64()), ("iou/tree", pa.float64())], {"schema_version": "1"}
)


def rows(count: int, start: int = 0) -> list[dict[str, object]]:
    return [
        {"trial_id": f"t{index:04d}", "epoch": index, "iou/tree": index / 2} for index in range(start, start + count)
    ]


def filled(folder: Path, *batches: int) -> Table:
    """A table of one file a batch; epochs count up over all rows."""
    table = Table(folder, SCHEMA)
    written = 0
    for batch in batches:
        for row in rows(batch, written):
            table.append(row)
        table.flush()
        written += batch
    return table


def epochs(folder: Path) -> list[int]:
    found: list[int] = read_table(folder).column("epoch").to_pylist()
    return found


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_rows_come_back_in_their_order(tmp_path: Path) -> None:
    table = filled(tmp_path, 2, 1, 3)
    assert table.read().to_pylist() == rows(6)
    assert read_table(tmp_path).schema.metadata[b"schema_version"] == b"1"
    assert len(files(tmp_path)) == 3


def test_columns_not_named_are_null(tmp_path: Path) -> None:
    table = Table(tmp_path, SCHEMA)
    table.append({"trial_id": "t0000"})
    assert table.read().to_pylist() == [{"trial_id": "t0000", "epoch": None, "iou/tree": None}]


def test_a_column_that_the_table_has_not_is_refused(tmp_path: Path) -> None:
    table = Table(tmp_path / "epochs", SCHEMA)
    with pytest.raises(KeyError, match="table epochs has no column mious, zoo"):
        table.append({"epoch": 1, "zoo": 1, "mious": 0.5})
    assert table.read().num_rows == 0


def test_anyone_can_open_the_folder(tmp_path: Path) -> None:
    filled(tmp_path, 2, 2).compact()
    (tmp_path / ".part-0.parquet.tmp").write_bytes(b"being written")
    opened = pyarrow.dataset.dataset(tmp_path).to_table()
    assert opened.to_pylist() == rows(4)
    assert pq.read_table(tmp_path).to_pylist() == rows(4)


def test_nothing_is_written_without_rows(tmp_path: Path) -> None:
    table = Table(tmp_path, SCHEMA)
    table.flush()
    table.compact()
    assert files(tmp_path) == []
    assert read_table(tmp_path, SCHEMA).schema == SCHEMA
    assert read_table(tmp_path / "absent").num_rows == 0


def test_queued_rows_wait_for_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(tmp_path, SCHEMA)
    table.append(rows(1)[0])
    monkeypatch.setattr(results, "FLUSH_INTERVAL_S", 1e6)
    table.flush_if_due()
    assert files(tmp_path) == []
    monkeypatch.setattr(results, "FLUSH_INTERVAL_S", 0.0)
    table.flush_if_due()
    assert epochs(tmp_path) == [0]


def test_compaction_leaves_one_file_with_all_rows(tmp_path: Path) -> None:
    table = filled(tmp_path, 2, 1)
    table.append(rows(1, 3)[0])
    table.compact()
    assert len(files(tmp_path)) == 1
    assert epochs(tmp_path) == [0, 1, 2, 3]
    filled(tmp_path, 1)
    Table(tmp_path, SCHEMA).compact()
    assert epochs(tmp_path) == [0, 1, 2, 3, 0]
    assert len(files(tmp_path)) == 1


def test_compaction_keeps_what_it_is_told_to(tmp_path: Path) -> None:
    table = filled(tmp_path, 4)
    table.compact(keep=lambda found: found.filter(pc.less(found["epoch"], 2)))
    assert epochs(tmp_path) == [0, 1]
    table.compact(keep=lambda found: found.slice(0, 0))
    assert epochs(tmp_path) == []
    assert read_table(tmp_path).schema.names == SCHEMA.names


def test_a_kill_between_the_merged_file_and_the_removal_duplicates_nothing(tmp_path: Path) -> None:
    table = filled(tmp_path / "table", 2, 1)
    shutil.copytree(tmp_path / "table", tmp_path / "before")
    table.compact(keep=lambda found: found.filter(pc.less(found["epoch"], 2)))
    merged = files(tmp_path / "table")
    shutil.copytree(tmp_path / "before", tmp_path / "table", dirs_exist_ok=True)
    assert len(files(tmp_path / "table")) == 3
    assert epochs(tmp_path / "table") == [0, 1]
    Table(tmp_path / "table", SCHEMA)
    assert files(tmp_path / "table") == merged
    assert epochs(tmp_path / "table") == [0, 1]


def test_a_reader_survives_a_compaction_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = filled(tmp_path, 2, 1)
    list_files, calls = results._live_files, []

    def list_then_compact(folder: Path) -> list[Path]:
        found = list_files(folder)
        calls.append(found)
        if len(calls) == 1:
            table.compact()
        return found

    monkeypatch.setattr(results, "_live_files", list_then_compact)
    assert epochs(tmp_path) == [0, 1, 2]


def test_files_stay_few_and_are_seldom_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MOST_PARTS", 4)
    publish, written, most = Table._publish, 0, 0

    def counted(table: Table, content: pa.Table, name: str) -> Path:
        nonlocal written
        written += content.num_rows
        return publish(table, content, name)

    monkeypatch.setattr(Table, "_publish", counted)
    table = Table(tmp_path, SCHEMA)
    for row in rows(256):
        table.append(row)
        table.flush()
        most = max(most, len(files(tmp_path)))
    assert epochs(tmp_path) == list(range(256))
    assert most <= 4 + 1 + 7  # batches that wait, and one merged file of each power of two from 4 to 256
    assert written <= 256 * (1 + 7)  # once alone, and at most once in a file of each power of two from 4 to 256


def test_no_merged_file_needs_what_it_replaced_to_be_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MOST_PARTS", 3)
    with monkeypatch.context() as patch:
        patch.setattr(Table, "_finish_removals", lambda _: None)
        table = filled(tmp_path, *[1] * 40)
        table.compact(keep=lambda found: found.filter(pc.not_equal(found["epoch"], 17)))
        table.append(rows(1, 40)[0])
        table.flush()
    assert len(files(tmp_path)) > 50
    wanted = [epoch for epoch in range(41) if epoch != 17]
    assert epochs(tmp_path) == wanted
    for name in files(tmp_path)[::2]:  # as after a kill during a removal
        if tmp_path / name not in results._live_files(tmp_path):
            (tmp_path / name).unlink()
    assert epochs(tmp_path) == wanted
    Table(tmp_path, SCHEMA)
    assert epochs(tmp_path) == wanted
    assert len(files(tmp_path)) == 2


def test_rows_keep_their_order_when_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MOST_PARTS", 3)
    filled(tmp_path, *[1] * 5)
    monkeypatch.setattr(time, "time_ns", lambda: 1000)
    table = Table(tmp_path, SCHEMA)
    for row in rows(9, 5):
        table.append(row)
        table.flush()
        assert epochs(tmp_path) == list(range(row["epoch"] + 1))  # type: ignore[operator]


def test_a_kill_right_after_a_merge_appeared_duplicates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "MOST_PARTS", 3)
    table = filled(tmp_path, *[1] * 3)

    def die(_: Table) -> None:
        raise KeyboardInterrupt

    table.append(rows(1, 3)[0])
    with monkeypatch.context() as patch:
        patch.setattr(Table, "_finish_removals", die)
        with pytest.raises(KeyboardInterrupt):
            table.flush()
    assert len(files(tmp_path)) == 5
    assert epochs(tmp_path) == list(range(4))
    assert filled(tmp_path, 1).read()["epoch"].to_pylist() == [*range(4), 0]
    assert len(files(tmp_path)) == 3


def test_leftovers_of_a_killed_writer_go(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    (tmp_path / ".part-1.parquet.tmp").write_bytes(b"PAR1 half")
    assert epochs(tmp_path) == [0]
    Table(tmp_path, SCHEMA)
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("name", ["part-0.parquet", "compact-0.parquet"])
def test_a_file_that_is_no_parquet_is_named(name: str, tmp_path: Path) -> None:
    filled(tmp_path, 1)
    (tmp_path / name).write_bytes(b"not parquet at all")
    with pytest.raises(ResultsError, match=name):
        read_table(tmp_path)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ResultsError, match=file.name):
        read_table(tmp_path)


def test_files_of_different_columns_are_refused(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    pq.write_table(pa.table({"other": [1]}), tmp_path / "part-x.parquet")
    with pytest.raises(ResultsError, match=str(tmp_path)):
        read_table(tmp_path)


WRITER = """
import sys
from pathlib import Path
from test_results import SCHEMA, rows
from search import results
from search.results import Table
results.MOST_PARTS = 4
table = Table(Path(sys.argv[1]), SCHEMA)
done = table.read().num_rows
print("ready", flush=True)
while True:
    for row in rows(3, done):
        table.append(row)
    table.flush()
    done += 3
    print(done, flush=True)
    if done % 45 == 0:
        table.compact()
"""


def test_a_killed_writer_leaves_only_whole_batches(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
    for attempt in range(4):
        line = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(0.03 + 0.041 * attempt)
            writer.send_signal(signal.SIGKILL)
            told = [int(line) for line in writer.stdout.read().split()]
        found = epochs(tmp_path)
        assert found == list(range(len(found)))
        assert len(found) % 3 == 0
        assert len(found) >= max(told, default=0)
    assert len(found) > 0


def _read_until(folder: Path, stop: multiprocessing.synchronize.Event, told: multiprocessing.Queue[object]) -> None:
    reads = 0
    try:
        while not stop.is_set():
            found = epochs(folder)
            assert found == list(range(len(found))), found
            reads += 1
    except Exception as error:
        told.put(repr(error))
    told.put(reads)


def test_a_reader_beside_the_writer_sees_every_batch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MOST_PARTS", 4)
    context = multiprocessing.get_context("fork")
    stop, told = context.Event(), context.Queue()
    table = filled(tmp_path, 1)
    reader = context.Process(target=_read_until, args=(tmp_path, stop, told))
    reader.start()
    ends = time.monotonic() + 1.5
    written = 1
    while time.monotonic() < ends:
        table.append(rows(1, written)[0])
        table.flush()
        written += 1
        if written % 70 == 0:
            table.compact()
    stop.set()
    answer = told.get(timeout=30)
    reader.join(30)
    assert isinstance(answer, int), answer
    assert answer > 3


def test_the_last_row_of_each_key_wins() -> None:
    table = pa.table({"trial_id": ["a", "b", "a", "a"], "epoch": [1, 1, 1, 2], "value": [1, 2, 3, 4]})
    assert last_rows(table, ["trial_id", "epoch"]).column("value").to_pylist() == [3, 2, 4]
    assert last_rows(table.slice(0, 0), ["trial_id"]).num_rows == 0
