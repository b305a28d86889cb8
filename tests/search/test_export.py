"""``python -m search.export``: which trial, what it says, what it writes, and how it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from export_samples import TINY, exportable_run
from told import Told, tell

from search.export import main
from search.run_folder import RunFolder
from trainers.checkpoint import Checkpoints
from trainers.config import TrialConfig
from trainers.exporting import formats
from trainers.exporting.description import read_description


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return exportable_run(tmp_path_factory.mktemp("runs") / "mine")[0]


@pytest.fixture
def export(run: RunFolder, capfd: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """Run the command in this process."""
    return lambda *arguments: tell(main, [f"runs={run.path.parent}", *arguments], capfd)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("kind", "file"), [("onnx", "model.onnx"), ("torch_export", "model.pt2"), ("state_dict", "model.pt")]
)
def test_the_latest_runs_best_model_is_exported(
    kind: str, file: str, run: RunFolder, export: Callable[..., Told]
) -> None:
    told = export(f"format={kind}")
    assert (told.code, told.err) == (0, "")
    folder = run.path / "export" / f"t0000-{kind}"
    assert names(folder) == {file, "model.json", "README.md", "config.yaml"}
    assert names(folder.parent) >= {folder.name}
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]
    description = read_description(folder)
    assert description.input.any_batch
    assert description.input.any_size
    assert TrialConfig.load(folder / "config.yaml") == TINY
    assert "Trial t0000 of run mine, mIoU 0.600" in told.out
    assert (
        "The configuration ran under 2 seeds. This is t0000 with mIoU 0.600; the other runs: t0000-1 0.604." in told.out
    )
    assert "The model was trained in bf16 and is exported in float32" in told.out
    assert "Checked on all 6 validation images: largest difference of logits" in told.out
    assert f"Export: {folder} ({file}, " in told.out
    content = json.loads((folder / "model.json").read_text())
    assert content["metrics"]["miou"] == 0.6
    assert [entry["device_name"] for entry in content["latency"]] == ["A <processor> of 2 cores"]
    assert content["precision"] == {"trained": "bf16", "exported": "fp32"}
    assert content["check"]["miou_before"] == pytest.approx(content["check"]["miou_after"], abs=1e-3)


@pytest.mark.parametrize(("wanted", "trial"), [("knee", "t0001"), ("fastest", "t0001"), ("t0000-1", "t0000-1")])
def test_a_trial_is_named_by_its_role_or_id(
    wanted: str, trial: str, run: RunFolder, export: Callable[..., Told]
) -> None:
    told = export("run=mine", f"trial={wanted}", "format=state_dict")
    assert told.code == 0
    assert read_description(run.path / "export" / f"{trial}-state_dict").config["training"]["seed"] == int(
        trial == "t0000-1"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["trial=t0O01"],
            "Run mine has no trial 't0O01'. Did you mean 't0001'? trial is best, knee, fastest or an id.",
        ),
        (["trial=bets"], "Run mine has no trial 'bets'. Did you mean 'best'?"),
        (["trial=t0004"], "Trial t0004 is failed (RuntimeError: boom): only a completed trial has a model to export."),
        (["trial=t0002"], "There is no checkpoint "),
        (["format=onxx"], "format must be one of onnx, torch_export, state_dict; got 'onxx'. Did you mean 'onnx'?"),
        (["trail=best"], "There is no setting 'trail'. Did you mean trial?"),
        (["run=mime"], "There is no run 'mime' in "),
        (["data.height=3"], "There is no setting 'data.height'."),
    ],
)
def test_a_mistake_is_told_in_one_line_and_nothing_is_written(
    arguments: list[str], message: str, run: RunFolder, export: Callable[..., Told]
) -> None:
    before = set(run.path.rglob("*"))
    told = export(*arguments)
    assert message in told.err
    assert told.err.count("\n") == 1
    assert told.code == 2
    assert set(run.path.rglob("*")) - before <= {run.path / "export"}


def test_a_stopped_trial_is_exported_with_a_warning_if_it_still_has_a_model(
    run: RunFolder, export: Callable[..., Told]
) -> None:
    told = export("trial=t0003")
    assert told.code == 2
    assert "Trial t0003 was stopped at epoch 1 of 9 (stopped at a rung: not among the best third)" in told.err
    assert f"python -m trainers.train {run.trials / 't0003' / 'config.yaml'}" in told.err
    kept = torch.load(Checkpoints(run.trials / "t0001").best, weights_only=True)
    Checkpoints(run.trials / "t0003").save_best(kept)
    told = export("trial=t0003", "format=state_dict")
    assert told.code == 0
    warning = "The search stopped this trial at epoch 1 of 9 (stopped at a rung: not among the best third)"
    assert warning in told.out
    assert warning in (run.path / "export" / "t0003-state_dict" / "README.md").read_text()


def test_an_earlier_export_is_replaced_and_nothing_else(export: Callable[..., Told], tmp_path: Path) -> None:
    place = tmp_path / "shipped"
    assert export("format=state_dict", f"output={place}").code == 0
    (place / "README.md").write_text("old")
    assert export("format=torch_export", f"output={place}").code == 0
    assert names(place) == {"model.pt2", "model.json", "README.md", "config.yaml"}
    assert (place / "README.md").read_text() != "old"
    (place / "notes.txt").write_text("mine")
    told = export("format=onnx", f"output={place}")
    assert (told.code, told.out) == (2, "")
    assert f"{place} holds files that no export wrote (notes.txt). Set output=<folder>." in told.err
    (place / "notes.txt").unlink()
    (place / "model.json").write_text("{}")
    assert "is not an earlier export" in export("format=onnx", f"output={place}").err
    assert "is a file; name a folder" in export("format=onnx", f"output={place / 'model.json'}").err


def test_a_file_that_does_not_do_as_the_model_leaves_the_old_export(
    export: Callable[..., Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "shipped"
    assert export("format=state_dict", f"output={place}").code == 0
    before = {path: path.read_bytes() for path in place.iterdir()}

    def faulty(model: torch.nn.Module, _shape: object, path: Path) -> None:
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        state["classifier.bias"][0] += 0.1
        torch.save(state, path)

    monkeypatch.setitem(formats.WRITERS, "state_dict", faulty)
    told = export("format=state_dict", f"output={place}")
    assert told.code == 2
    assert "The model cannot be exported as state_dict: on a batch of 1 x 48 x 64" in told.err
    assert "its logits differ from those of the trained model by 1.0e-01" in told.err
    assert {path: path.read_bytes() for path in place.iterdir()} == before
    assert names(tmp_path) == {"shipped"}


def test_a_data_set_that_is_gone_is_asked_for(export: Callable[..., Told], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    told = export(f"data.cache={tmp_path / 'cache'}", f"output={tmp_path / 'shipped'}")
    assert told.code == 2
    assert "Without its validation images the exported model cannot be checked, and nothing was written." in told.err
    assert "data.root=<folder>" in told.err
    assert names(tmp_path) == {"cache"}
    assert export(f"data.cache={tmp_path / 'other'}", "format=state_dict", f"output={tmp_path / 'shipped'}").code == 0
