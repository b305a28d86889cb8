"""What a user can get wrong with ``python -m search.run``: told in words, by an exit code, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from told import Told, tell

from search.run import main
from search.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
TINY = ["data.height=32", "data.width=32", "data.max_images=4"]
GOOD = "parameters:\n  model.base_channels: {values: [2, 4]}\nfixed: {model.size: small}\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def search(place: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """Run the command in this process, as ``python -m search.run`` would, in ``place``."""

    def call(*arguments: str) -> Told:
        before = set((place / "runs").rglob("*"))
        told = tell(main, arguments, capfd)
        assert set((place / "runs").rglob("*")) == before, "nothing half-written"
        return told

    return call


def write_space(place: Path, text: str) -> str:
    (place / "conf" / "space").mkdir(parents=True, exist_ok=True)
    (place / "conf" / "space" / "mine.yaml").write_text(text)
    return f"--config-dir={place / 'conf'}"


def write_images(folder: Path, names: list[str], value: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        pixels = np.full((20, 20), value + index % 2, np.uint8) if value else np.zeros((20, 20, 3), np.uint8)
        assert cv2.imwrite(str(folder / name), pixels)


def test_the_command_itself_ends_with_the_message_and_the_code(place: Path) -> None:
    line = [sys.executable, "-m", "search.run", "num_trails=3"]
    done = subprocess.run(line, cwd=place, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "There is no setting 'num_trails'. Did you mean num_trials?\n"
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["space=backbone"], 1, "Could not find 'space/backbone'"),
        (["data=camvit"], 1, "Could not find 'data/camvit'"),
        (["training.epochs=many"], 1, "'many' of type 'str' could not be converted to Integer"),
        (["num_trials=[1"], 1, "no viable alternative at input '[1'"),
        (["training.epochs=0"], 2, "training.epochs must be at least 1; got 0."),
        (
            ["optimizer.name=sdg"],
            2,
            "optimizer.name must be one of adam, adamw, adamax, sgd; got 'sdg'. Did you mean 'sgd'?",
        ),
        (["optimizer.lr=0.1"], 2, "optimizer.lr is drawn by space 'quickstart'"),
        (["data.crop=128"], 2, "data.crop must be at most the packed image size 96 x 128"),
        (["sampler.name=grid"], 2, "sampler.name=grid needs a finite space"),
        (["data=camvid"], 2, "data.root must be set for data=camvid; got None."),
        (["run=a/b", *TINY], 2, "A run's name consists of letters"),
        (["run=../up", *TINY], 2, "got '../up'."),
        (["tracking.mode=online", *TINY], 2, "tracking.mode=online, but nobody is logged in to W&B here"),
        (["resume=mine"], 2, "There is no run 'mine' in"),
        (["resume=mine", "training.epochs=3"], 2, "resume continues a run under its own settings; training.epochs"),
    ],
)
def test_a_mistake_on_the_command_line(
    arguments: list[str], code: int, message: str, search: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")  # nobody's W&B login
    monkeypatch.setenv("NETRC", "/nonexistent/netrc")
    told = search(*arguments)
    assert message in told.err
    assert told.code == code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            GOOD + "baseline: []\n",
            "has the key 'baseline'; known keys are question, parameters, baselines, fixed, compare, search.",
        ),
        ("parameters: {model.backbon: {values: [resnet18]}}", "which no trial has. Did you mean 'model.backbone'?"),
        (
            "parameters:\n  model.size: {values: [small, medium], when: {model.base_channels: 4}}\n"
            "  model.base_channels: {values: [2, 4]}\n",
            "Parameter 'model.size': 'when' may name only parameters above it (none); got 'model.base_channels'.",
        ),
        (
            "parameters:\n  model.base_channels: {values: [2, 4]}\n"
            "  model.size: {values: [small, medium], when: {model.base_channels: 8}}\n",
            "model.base_channels is never 8, as its 'when' asks",
        ),
        ("parameters: {optimizer.name: {values: [adam, sdg]}}", "Did you mean 'sgd'?"),
        ("parameters: {optimizer.lr: {distribution: uniform, min: 1, max: 0}}", "'min' must be below 'max'"),
        ("[1, 2]", "mine"),
        ("parameters: [", "conf/space/mine.yaml is not YAML: while parsing"),
        (GOOD + "question: ${oc.env:HOME}\n", "must hold plain values; got '${oc.env:HOME}'"),
        ("# @package hydra\n" + GOOD, "must describe a space and nothing else; got '# @package hydra'"),
        (GOOD + "defaults: [/space/full]\n", "must describe a space and nothing else; got 'defaults:'"),
    ],
)
def test_a_mistake_in_the_users_space(text: str, message: str, place: Path, search: Callable[..., Told]) -> None:
    told = search(write_space(place, text), "space=mine")
    assert message in told.err
    assert told.code in {1, 2}


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_model_that_cannot_be_built_is_refused_before_anything_is_measured(
    dry_run: bool, place: Path, search: Callable[..., Told]
) -> None:
    models = "parameters:\n  model.architecture: {values: [unet, deeplab]}\nfixed: {model.weights: nowhere.pt}\n"
    told = search(write_space(place, models), "space=mine", f"dry_run={str(dry_run).lower()}", *TINY)
    expected = "model.weights must be none, imagenet or a file; there is no file 'nowhere.pt'.\n"
    assert (told.code, told.out, told.err) == (2, "", expected)


def test_a_users_space_is_an_option_like_any_other(place: Path, search: Callable[..., Told]) -> None:
    told = search(write_space(place, GOOD), "space=mine", "dry_run=true", "num_trials=7", *TINY)
    assert (told.code, told.err) == (0, "")
    assert "7 trials of up to 50 epochs from 2 configurations" in told.out
    assert "unet (base channels 2, size small)" in told.out
    assert not list((place / "runs").iterdir())


def test_nothing_feasible_names_the_closest(place: Path, search: Callable[..., Told]) -> None:
    told = search(write_space(place, GOOD), "space=mine", "constraints.params=10", "run=none", *TINY)
    assert told.code == 2
    assert "keeps constraints params=10. The closest is unet (base channels 2, size small) with" in told.err


def test_existing_name_is_refused(place: Path, search: Callable[..., Told]) -> None:
    (place / "runs" / "mine").mkdir(parents=True)
    told = search("run=mine", *TINY)
    assert told.code == 2
    assert "There is a run 'mine' already. Continue it with resume=mine" in told.err


def test_mistakes_in_the_data(place: Path, search: Callable[..., Told]) -> None:
    (place / "empty").mkdir()
    told = search("data=folder", "data.root=empty")
    assert told.code == 2
    assert str(place / "empty") in told.err

    assert search("data=folder", "data.root=absent").code == 2

    write_images(place / "pairs" / "images", ["a.png", "b.png", "c.png"])
    write_images(place / "pairs" / "masks", ["a.png", "b.png"], value=1)
    (place / "pairs" / "classes.csv").write_text("name,red,green,blue\nbackground,0,0,0\none,1,1,1\ntwo,2,2,2\n")
    told = search("data=folder", "data.root=pairs")
    assert told.code == 2
    assert "c.png" in told.err


def test_more_cores_than_any_machine_has_are_refused_at_once(search: Callable[..., Told]) -> None:
    told = search("resources.cpus_per_trial=4096", *TINY)
    assert told.code == 2
    assert "resources.cpus_per_trial=4096, but the largest node has" in told.err


def test_runs_that_exist_or_cannot_be(place: Path, search: Callable[..., Told]) -> None:
    run = RunFolder(place / "runs" / "mine")
    run.path.mkdir(parents=True)
    told = search("run=mine", *TINY)
    assert told.code == 2
    assert "There is a run 'mine' already. Continue it with resume=mine, or choose another run=<name>." in told.err

    told = search("resume=mine")
    assert told.code == 2
    assert "config.yaml does not hold the settings of a run" in told.err

    run.config.write_text("num_trials: 3\n")
    told = search("resume=mime")
    assert told.code == 2
    assert "There is no run 'mime'" in told.err
    assert "Did you mean 'mine'?" in told.err

    (place / "file").write_text("no folder")
    told = search("runs=file", *TINY)
    assert told.code == 2
    assert "cannot be written: File exists. Set runs=<folder>" in told.err
