"""Packing: once per node, complete or not at all, with a message when the disk does not play along."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from trainers.config import DataConfig
from trainers.datasets import DataError, SegmentationClass, neutral_color, open_dataset, packed
from trainers.datasets.scenes import Scene

SMALL = {"height": 24, "width": 32, "max_images": 4}


def small(cache: Path, **settings: object) -> DataConfig:
    return DataConfig(**(SMALL | {"cache": str(cache)} | settings))  # type: ignore[arg-type]


def packed_folders(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "packed").iterdir() if path.is_dir())


def test_the_second_opening_writes_nothing(tmp_path: Path) -> None:
    first = open_dataset(small(tmp_path))
    files = {path: path.stat().st_mtime_ns for path in packed_folders(tmp_path)[0].iterdir()}
    second = open_dataset(small(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in packed_folders(tmp_path)[0].iterdir()} == files
    assert isinstance(second.train.images, np.memmap)
    assert not second.train.images.flags.writeable
    np.testing.assert_array_equal(first.val.images, second.val.images)
    assert (first.notes, first.classes, first.train.names) == (second.notes, second.classes, second.train.names)


def test_what_changes_the_bytes_is_packed_anew_and_the_crop_is_not(tmp_path: Path) -> None:
    for settings in ({}, {"crop": 16}, {"width": 48}, {"split_seed": 1}, {"max_images": 3}):
        open_dataset(small(tmp_path, **settings))
    assert len(packed_folders(tmp_path)) == 4


def test_the_cache_folder_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    open_dataset(DataConfig(**SMALL))  # type: ignore[arg-type]
    assert len(packed_folders(tmp_path / "segmentation-search")) == 1


OPEN = """
import sys
from trainers.config import DataConfig
from trainers.datasets import open_dataset
data = open_dataset(DataConfig(height=48, width=64, max_images=60, cache=sys.argv[1]))
print(data.train.images[7].sum())
"""


def start(code: str, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_pack_once(tmp_path: Path) -> None:
    processes = [start(OPEN, tmp_path) for _ in range(2)]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0][0] == results[1][0] != ""
    assert len(packed_folders(tmp_path)) == 1


def test_killed_packing_leaves_nothing_readable_and_is_repeated(tmp_path: Path) -> None:
    process = start(OPEN, tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("packed/*.partial/train_images.npy")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert [path.suffix for path in packed_folders(tmp_path)] == [".partial"]
    after = start(OPEN, tmp_path)
    output, errors = after.communicate(timeout=120)
    assert after.returncode == 0, errors
    assert output
    assert [path.suffix for path in packed_folders(tmp_path)] == [""]


def test_a_failure_midway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("midway")

    monkeypatch.setattr(Scene, "load", explode)
    with pytest.raises(RuntimeError, match="midway"):
        open_dataset(small(tmp_path))
    assert packed_folders(tmp_path) == []


def test_a_disk_too_small_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 0))
    monkeypatch.setattr(Scene, "load", lambda *_: pytest.fail("decoded although the disk is full"))
    with pytest.raises(DataError, match=rf"The disk is full: packing data=scenes needs 37 MB in {tmp_path}/packed"):
        open_dataset(small(tmp_path, height=320, width=384, max_images=38))
    assert packed_folders(tmp_path) == []


def test_a_disk_that_fills_while_packing_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(packed, "_sync", full)
    with pytest.raises(DataError, match=r"The disk is full.*Free some space there, or name another folder"):
        open_dataset(small(tmp_path))
    assert packed_folders(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"Cannot write \(Not a directory\).*data\.cache="):
        open_dataset(small(tmp_path / "file"))


def test_a_full_device_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write to a device that is really full, through the same file objects."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    opened = Path.open

    def onto_full_device(path: Path, mode: str = "r", *args: object, **kwargs: object) -> object:
        path = Path("/dev/full") if path.suffix == ".npy" else path
        return opened(path, mode, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", onto_full_device)
    with pytest.raises(DataError, match="The disk is full"):
        open_dataset(small(tmp_path))
    assert packed_folders(tmp_path) == []


def test_the_colour_of_ignored_pixels_is_no_classes() -> None:
    greys = [SegmentationClass(str(level), (level, level, level)) for level in range(256) if level != 77]
    assert neutral_color(greys) == (77, 77, 77)
    ends = [SegmentationClass("black", (0, 0, 0)), SegmentationClass("white", (255, 255, 255))]
    assert neutral_color(ends)[0] in (127, 128)
