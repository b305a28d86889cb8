"""Every shipped space runs, from the command line to a report that answers its question (``make test-slow``)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from search import columns
from search.run_folder import RunFolder
from spaces import Space, shipped_spaces

SMALL = [
    *("data.height=32", "data.width=32", "data.max_images=8", "training.epochs=1", "training.batch_size=4"),
    *("training.precision=fp32", "num_trials=3", "repeats=2", "scheduler.name=none", "tracking.mode=off", "run=small"),
]
"""Small enough for a laptop, whatever the space fixes."""


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_spaces())
def test_the_space_runs_and_its_report_answers_its_question(name: str, tmp_path: Path) -> None:
    if name == "smp":
        pytest.importorskip("segmentation_models_pytorch", reason="needs the extra smp")
    space = Space.from_dict(name, shipped_spaces()[name])
    settings = [setting for setting in SMALL if setting.split("=")[0] not in space.paths]
    command = [sys.executable, "-m", "search.run", f"space={name}", *settings]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr
    run = RunFolder(tmp_path / "runs" / "small")
    rows = run.read_trials().to_pylist()
    assert [(row[columns.STATE], row[columns.REASON]) for row in rows] == [(columns.COMPLETED, None)] * 6
    assert space.question in done.stdout
    page = (run.report / "index.html").read_text()
    assert page.count(space.question) >= 2  # in the header, and over the answer
