"""Diagnosing the front: tasks of a real Ray cluster predict; diagnosis and gallery are written whole or not at all."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from cluster.connect import connect
from search import columns, front_diagnosis, session
from search.diagnosis import Diagnosis, examples, read_diagnosis
from search.front_diagnosis import diagnose_front, diagnose_member
from search.gallery import Gallery, read_gallery
from search.prepare import Plan
from search.repeats import Row
from search.reporting.record import Record
from search.resources import Share
from search.run_folder import RunFolder
from trainers.checkpoint import load_checkpoint
from trainers.config import DataConfig, TrialConfig
from trainers.datasets import SegmentationData, open_dataset
from trainers.diagnosis import boundary_width_px, size_limits_px
from trainers.evaluation import SegmentationMetrics
from trainers.loop import train
from trainers.prediction import predict

SHARE = Share(cpus=1, gpus=0, concurrent=2)
CLASSES = ('<b>"dark"</b>', "Straße, 草地", "images")
CONFIG = TrialConfig().replace(
    {
        "data.height": 32,
        "data.width": 48,
        "model.size": "small",
        "model.base_channels": 4,
        "optimizer.lr": 1e-2,
        "training.epochs": 4,
        "training.batch_size": 4,
        "training.precision": "fp32",
        "training.device": "cpu",
    }
)
SEEDS = {"t0003": 0, "t0010": 1, "t0010-1": 2}
COMMON = (0, 2, 4, 6, 8, 10)


@pytest.fixture(scope="module", autouse=True)
def _cluster(one_thread: None) -> Iterator[None]:  # noqa: ARG001
    """A Ray cluster on this machine; here as in its tasks, torch has one thread."""
    with connect(None):
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> TrialConfig:
    """Trials on noisy pictures whose brightness says the class of each quarter; a frame does not count."""
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for split, images in (("train", 12), ("val", 11)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(images):
            mask = generator.integers(3, size=(2, 2)).repeat(16, axis=0).repeat(24, axis=1).astype(np.uint8)
            pixels = (90 * mask[..., None] + generator.integers(60, size=(*mask.shape, 3))).astype(np.uint8)
            mask[:2], mask[-2:], mask[:, :2], mask[:, -2:] = (255,) * 4
            name = f"№{index:02} <i>.png"
            Image.fromarray(pixels).save(root / "images" / split / name)
            Image.fromarray(mask).save(root / "masks" / split / name)
    with (root / "classes.csv").open("w", newline="", encoding="utf-8") as stream:
        colors = ((10, 20, 30), (200, 200, 0), (255, 255, 255))
        rows = [(name, *color) for name, color in zip(CLASSES, colors, strict=True)]
        csv.writer(stream).writerows([("name", "red", "green", "blue"), *rows])
    return CONFIG.replace({"data.name": "folder", "data.root": str(root), "data.cache": str(root / "cache")})


@pytest.fixture(scope="module")
def data(base: TrialConfig) -> SegmentationData:
    return open_dataset(base.data)


@pytest.fixture(scope="module")
def run(base: TrialConfig, data: SegmentationData, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with three trained models."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    run.trials.mkdir(parents=True)
    for trial, seed in SEEDS.items():
        list(train(base.replace({"training.seed": seed}), data, run.trials / trial))
    return run


def member(base: TrialConfig, trial: str, **values: Any) -> Row:
    config = base.replace({"training.seed": SEEDS.get(trial, 0)})
    return {columns.TRIAL_ID: trial, columns.CONFIG: json.dumps(config.to_dict())} | values


def found_in(run: RunFolder) -> tuple[Diagnosis, Gallery]:
    """What a reader finds."""
    diagnosis, gallery = read_diagnosis(run), read_gallery(run)
    assert diagnosis is not None
    assert gallery is not None
    assert list(diagnosis.members) == list(gallery.members)
    assert list(diagnosis.missing) == list(gallery.missing)
    assert not list(run.path.glob(".*"))
    return diagnosis, gallery


def diagnosed(run: RunFolder, base: TrialConfig, *trials: str) -> tuple[Diagnosis, Gallery]:
    diagnose_front(run, [member(base, trial) for trial in trials], open_dataset(base.data), base.data, SHARE)
    return found_in(run)


def test_a_diagnosis_is_of_the_predictions_that_the_trials_metrics_were_counted_from(
    run: RunFolder, base: TrialConfig, data: SegmentationData
) -> None:
    diagnosis, _ = diagnosed(run, base, "t0010", "t0003", "t0010-1")
    assert list(diagnosis.members) == ["t0010", "t0003", "t0010-1"]
    assert diagnosis.missing == {}
    assert (diagnosis.classes, diagnosis.image_names) == (CLASSES, data.val.names)
    assert diagnosis.boundary_width_px == boundary_width_px(32, 48)
    assert diagnosis.size_limits_px == size_limits_px(32, 48)
    for trial, model in diagnosis.members.items():
        recorded = load_checkpoint(run.trials / trial / "best.pt")["metrics"]
        assert SegmentationMetrics(model.confusion).miou == pytest.approx(recorded["miou"], abs=1e-9)
        np.testing.assert_allclose(model.iou, recorded["iou"], atol=1e-9)
        np.testing.assert_array_equal(model.image_classes[..., 0].sum(axis=0), model.confusion.diagonal())
        assert model.size_objects.sum() > 0
        assert (model.boundary_iou < 1).any()


def test_a_gallery_shows_what_each_model_predicts_in_common_images_and_in_its_examples(
    run: RunFolder, base: TrialConfig, data: SegmentationData
) -> None:
    diagnosis, gallery = diagnosed(run, base, *SEEDS)
    assert tuple(gallery.names) == COMMON
    for trial, seed in SEEDS.items():
        named = {example.image for example in examples(diagnosis.members[trial])}
        assert set(gallery.shown[trial]) == named | set(COMMON)
        config = base.replace({"training.seed": seed})
        expected = np.concatenate(list(predict(config, run.trials / trial / "best.pt", data, "cpu")))
        for index in gallery.shown[trial]:
            view = gallery.view(trial, index)
            assert view is not None
            np.testing.assert_array_equal(np.asarray(Image.open(view.prediction)), expected[index])
            np.testing.assert_array_equal(np.asarray(Image.open(view.truth)), data.val.masks[index])
        assert len(np.unique(expected)) > 1
    assert any(set(images) > set(COMMON) for images in gallery.shown.values())


def test_what_is_written_anew_keeps_nothing_of_the_old(run: RunFolder, base: TrialConfig) -> None:
    for name in (".gallery.partial", ".diagnosis.old"):  # left by a writer that was killed
        (run.path / name / "t0000").mkdir(parents=True)
    diagnosed(run, base, "t0003", "t0010")
    _, gallery = diagnosed(run, base, "t0010-1", "t0010")
    assert gallery.members == ("t0010-1", "t0010")
    assert {path.name for path in run.gallery.iterdir()} == {*("images", "truth", "t0010-1", "t0010", "gallery.json")}


def test_a_model_that_cannot_predict_takes_no_other_down(
    run: RunFolder, base: TrialConfig, data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mortal(config: str, checkpoint: Path, source: DataConfig, names: tuple[str, ...], threads: int) -> Any:
        if checkpoint.parent.name == "t0010":
            os._exit(1)
        if checkpoint.parent.name == "t0010-1":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return diagnose_member(config, checkpoint, source, names, threads)

    monkeypatch.setattr(front_diagnosis, "diagnose_member", mortal)
    config = json.dumps({"model": {"architecture": "gone"}})
    rows = [member(base, trial) for trial in ("t0000", *SEEDS)]
    rows += [member(base, "t0011", config=None), member(base, "t0012", config=config)]
    diagnose_front(run, rows, data, base.data, SHARE)
    diagnosis, gallery = found_in(run)
    assert gallery.members == ("t0003",)
    assert list(gallery.missing) == ["t0000", "t0010", "t0010-1", "t0011", "t0012"]
    assert gallery.missing == diagnosis.missing
    assert gallery.missing["t0000"] == f"There is no checkpoint {run.trials.absolute() / 't0000' / 'best.pt'}."
    assert gallery.missing["t0010"].startswith("The process that predicted died: ")
    assert gallery.missing["t0010-1"] == "OutOfMemoryError: CUDA out of memory"
    assert gallery.missing["t0011"].startswith("TypeError: ")
    assert gallery.missing["t0012"].startswith("model.architecture must be one of ")


def test_a_node_that_has_other_images_is_not_believed(
    run: RunFolder, base: TrialConfig, data: SegmentationData
) -> None:
    other = dataclasses.replace(base.data, max_images=5)
    diagnosis = diagnose_front(run, [member(base, "t0003")], data, other, SHARE)
    assert diagnosis.missing == {"t0003": "The 5 validation images where it ran are not the 11 of the search."}
    assert diagnosis.members == {}


@pytest.mark.parametrize("share", [Share(4096, 0, 1), Share(1, 512, 1)])
def test_a_cluster_without_room_does_not_hold_up_the_end(
    share: Share, run: RunFolder, base: TrialConfig, data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_diagnosis, "WAIT_S", 0.3)
    monkeypatch.setattr(front_diagnosis, "IMAGE_S", 0.1)
    epochs = {columns.TRAIN_TIME_S: 6.0, columns.EPOCH: 10}
    diagnose_front(run, [member(base, "t0003", **epochs), member(base, "t0010")], data, base.data, share)
    diagnosis, gallery = found_in(run)
    reason = "The cluster gave no prediction within 2 s."  # 0.3 + 11 images of 0.1 + an epoch of 0.6
    assert diagnosis.missing == gallery.missing == {"t0003": reason, "t0010": reason}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_cannot_be_finished_leaves_the_old(
    error: BaseException, run: RunFolder, base: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    diagnosed(run, base, "t0003")

    def refuse(_: Gallery) -> None:
        raise error

    monkeypatch.setattr("search.gallery_writer.write_index", refuse)
    with pytest.raises(type(error)):
        diagnosed(run, base, "t0010")
    diagnosis, gallery = found_in(run)
    assert list(diagnosis.members) == ["t0003"]
    assert gallery.view("t0003", 0) is not None


def test_an_empty_front_has_an_empty_diagnosis(run: RunFolder, base: TrialConfig) -> None:
    diagnosis, gallery = diagnosed(run, base)
    assert (diagnosis.members, diagnosis.missing) == ({}, {})
    assert len(gallery.images) == 6


def test_an_impatient_user_gets_the_report_all_the_same(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "diagnose_front", interrupted)
    said: list[str] = []
    plan = cast(
        Plan,
        SimpleNamespace(data=None, base=SimpleNamespace(data=None), share=SHARE, config=SimpleNamespace(storage=None)),
    )
    session.show_predictions(plan, run, cast(Record, SimpleNamespace(front_rows=[])), said.append)
    (line,) = said
    assert "the report shows no predictions" in line
    assert f"python -m search.run {run.argument('resume')}" in line


def test_a_search_that_is_done_does_not_fail_for_its_diagnosis(
    run: RunFolder, base: TrialConfig, data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    diagnosed(run, base, "t0003")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("search.front_diagnosis.write_diagnosis", refuse)
    said: list[str] = []
    plan = cast(Plan, SimpleNamespace(data=data, base=base, share=SHARE, config=SimpleNamespace(storage=None)))
    session.show_predictions(plan, run, cast(Record, SimpleNamespace(front_rows=[])), said.append)
    reason = "OSError: [Errno 28] No space left on device"
    assert said == [f"The front was not diagnosed, so the report shows no predictions: {reason}"]
    assert list(found_in(run)[0].members) == ["t0003"]
    monkeypatch.undo()
    rows = [member(base, "t0000")]
    session.show_predictions(plan, run, cast(Record, SimpleNamespace(front_rows=rows)), said.append)
    assert said[1:] == [f"t0000 predicts nothing: There is no checkpoint {run.trials.absolute()}/t0000/best.pt."]
