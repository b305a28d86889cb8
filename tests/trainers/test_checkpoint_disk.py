"""A disk that refuses a checkpoint, or a folder that is gone, is no fault of the trial and says so."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trainers.checkpoint import Checkpoints, UnwritableError, load_checkpoint


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files of this process may have 100 kB, as on a disk that has no more room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_disk")
def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_last({"epoch": 1, "weights": torch.zeros(10)})
    with pytest.raises(UnwritableError, match=rf"File too large: '{checkpoints.last}'"):
        checkpoints.save_last({"epoch": 2, "weights": torch.zeros(100_000)})
    assert load_checkpoint(checkpoints.last)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"], "what did not fit is removed"


def test_a_folder_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "trials" / "t0000"
    with pytest.raises(UnwritableError, match="No such file or directory"):
        Checkpoints(folder).save_best({"epoch": 1})
    assert not (tmp_path / "run").exists()
