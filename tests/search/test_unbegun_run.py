"""A search that is killed while it makes its folder leaves one that the same command takes over."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.config import SearchConfig, load_config, save_config
from search.run_folder import RunFolder


def made(folder: Path) -> RunFolder:
    """A run's folder before its settings are there."""
    run = RunFolder(folder / "run")
    for part in (run.trials, run.results):
        part.mkdir(parents=True)
    run.write_data({"name": "scenes"})
    (run.path / ".lock").touch()
    (run.path / ".config.yaml.0123abcd.tmp").touch()
    return run


def test_a_folder_without_settings_was_left_by_a_kill(tmp_path: Path) -> None:
    run = made(tmp_path)
    assert run.is_unbegun()
    save_config(SearchConfig(space_name="tiny"), run.config)
    assert not run.is_unbegun()


@pytest.mark.parametrize("strange", ["thesis.tex", "config.yaml", ".git"])
def test_a_folder_with_anything_else_is_not_taken_over(tmp_path: Path, strange: str) -> None:
    run = made(tmp_path)
    (run.path / strange).touch()
    assert not run.is_unbegun()


def test_an_empty_folder_is_not_taken_over(tmp_path: Path) -> None:
    assert not RunFolder(tmp_path).is_unbegun()


def test_settings_are_replaced_and_never_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    save_config(SearchConfig(space_name="tiny", num_trials=3), path)
    with path.open() as reader:
        save_config(SearchConfig(space_name="tiny", num_trials=4), path)
        assert "num_trials: 3" in reader.read(), "who had it open still reads it whole"
    assert load_config(path).num_trials == 4
