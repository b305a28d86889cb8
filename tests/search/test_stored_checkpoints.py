"""Checkpoints in a storage: what an epoch must have stored, what a retrial finds, and what killed processes leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from search import storage as storage_module
from search import stored_checkpoints
from search.storage import Storage, StorageError
from search.stored_checkpoints import StoredCheckpoints, StoredModel
from trainers.checkpoint import Checkpoints

CONFIG = {"optimizer": {"lr": 0.1}}
HOLDER = """
import sys
from search.stored_checkpoints import StoredCheckpoints
checkpoints = StoredCheckpoints(sys.argv[1], "t0001")
print(checkpoints.folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Temporary files of nodes go here, and nobody waits long."""
    (tmp_path / "node").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "node"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(storage_module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(stored_checkpoints, "EPOCH_PATIENCE_S", 0.02)
    monkeypatch.setattr(stored_checkpoints, "END_PATIENCE_S", 0.04)
    return tmp_path / "node" / f"segmentation-search-{os.getuid()}"


def write(checkpoints: StoredCheckpoints, epoch: int, *, best: bool = False, config: object = None) -> None:
    own = Checkpoints(checkpoints.folder)
    if best:
        own.save_best({"epoch": epoch})
    own.save_last({"config": CONFIG if config is None else config, "epoch": epoch})


def last_epoch(checkpoints: StoredCheckpoints) -> int | None:
    found = Checkpoints(checkpoints.folder).load_last(CONFIG)
    return None if found is None else int(found["epoch"])


def test_another_process_goes_on_where_the_last_one_was(tmp_path: Path, scratch: Path) -> None:
    first = StoredCheckpoints(str(tmp_path / "run"), "t0001")
    first.fetch_last(CONFIG)
    assert last_epoch(first) is None
    write(first, 1, best=True)
    first.put(last_epoch=False)
    model = (tmp_path / "run" / "trials" / "t0001" / "best.pt").stat()
    write(first, 2)
    first.put(last_epoch=False)
    assert (tmp_path / "run" / "trials" / "t0001" / "best.pt").stat() == model  # not put again
    second = StoredCheckpoints(str(tmp_path / "run"), "t0001")
    second.fetch_last(CONFIG)
    assert last_epoch(second) == 2
    for each in (first, second):
        each.close()
    assert [path.name for path in scratch.iterdir()] == [".lock"]
    with StoredModel(str(tmp_path / "run"), "t0001").fetched() as path:
        assert path.is_file()
    with StoredModel(str(tmp_path / "run"), "t0002").fetched() as path:
        assert not path.exists()
    assert [path.name for path in scratch.iterdir()] == [".lock"]


def test_the_checkpoint_of_another_draw_is_not_used(tmp_path: Path) -> None:
    lost = StoredCheckpoints(str(tmp_path / "run"), "t0001")
    write(lost, 3, config={"optimizer": {"lr": 0.2}})
    lost.put(last_epoch=False)
    checkpoints = StoredCheckpoints(str(tmp_path / "run"), "t0001")
    checkpoints.fetch_last(CONFIG)
    assert last_epoch(checkpoints) is None


def test_an_epoch_goes_by_without_the_storage_and_the_last_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = StoredCheckpoints(str(tmp_path / "run"), "t0001")
    with monkeypatch.context() as patch:

        def refuse(storage: Storage, name: str, content: object) -> None:  # noqa: ARG001
            raise StorageError("The storage cannot be written: out of reach")

        patch.setattr(Storage, "put", refuse)
        write(checkpoints, 1, best=True)
        checkpoints.put(last_epoch=False)
        with pytest.raises(StorageError, match="out of reach"):
            checkpoints.put(last_epoch=True)
    write(checkpoints, 2)
    checkpoints.put(last_epoch=False)
    assert {path.name for path in (tmp_path / "run" / "trials" / "t0001").iterdir()} == {"best.pt", "last.pt"}


def test_what_a_killed_process_left_on_the_node_goes_and_what_a_live_one_has_stays(
    tmp_path: Path, scratch: Path
) -> None:
    living = StoredCheckpoints(str(tmp_path / "run"), "t0000")
    line = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    pipe, root = subprocess.PIPE, Path(__file__).parents[2]
    with subprocess.Popen(line, cwd=root, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        assert left.is_dir()
        StoredCheckpoints(str(tmp_path / "run"), "t0002").close()
        assert left.is_dir()
        process.send_signal(signal.SIGKILL)
    StoredCheckpoints(str(tmp_path / "run"), "t0002").close()
    assert not left.exists()
    assert living.folder.is_dir()
    assert len([path for path in scratch.iterdir() if path.is_dir()]) == 1
