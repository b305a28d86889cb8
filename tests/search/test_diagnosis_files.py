"""The diagnosis of a run on disk: written whole or not at all, read without torch, and the examples it names."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from search.diagnosis import (
    BEST,
    WORST,
    Diagnosis,
    Example,
    ModelDiagnosis,
    examples,
    find_examples,
    read_diagnosis,
    write_diagnosis,
)
from search.files import write_text_atomically
from search.run_folder import RunError, RunFolder

ROOT = Path(__file__).parents[2]
CLASSES = ("Straße, 草地", '<b>"dark"</b>', "never there")
NAMES = ("val/a b.png", "<i>.png", "№3.png", "last")
ARRAYS = ("confusion", "image_classes", "boundary_iou", "size_iou", "size_objects")


def made_up_model(trial_id: str, seed: int) -> ModelDiagnosis:
    """Numbers that need not fit together; nothing of the last class."""
    generator = np.random.default_rng(seed)
    overlap, more, missed = generator.integers(1, 10**12, size=(3, len(NAMES), len(CLASSES)))
    counts = np.stack([overlap, overlap + more, overlap + missed], axis=-1)
    counts[generator.random(counts.shape[:2]) < 0.3] = 0
    counts[:, -1] = 0
    confusion = generator.integers(0, 10**15, size=(len(CLASSES), len(CLASSES)))
    confusion[-1], confusion[:, -1] = 0, 0
    size_iou, boundary_iou = generator.random((len(CLASSES), 3)), generator.random(len(CLASSES))
    size_iou[0, 1] = size_iou[-1] = boundary_iou[-1] = np.nan
    return ModelDiagnosis(
        trial_id, confusion, counts, boundary_iou, size_iou, generator.integers(9, size=(len(CLASSES), 3))
    )


def made_up(*trials: str) -> Diagnosis:
    return Diagnosis(
        classes=CLASSES,
        image_names=NAMES,
        members={trial: made_up_model(trial, seed) for seed, trial in enumerate(trials)},
        missing={"t0009": "<b>There</b> is no checkpoint"},
        boundary_width_px=3,
        size_limits_px=(40.96, 368.64),
    )


def counted(*pixels: tuple[int, int, int]) -> ModelDiagnosis:
    """One class: intersection, predicted and truth of each image."""
    rates, sizes = np.zeros(1), np.zeros((1, 3))
    counts = np.array(pixels, np.int64)[:, None]
    return ModelDiagnosis("t", np.zeros((1, 1), np.int64), counts, rates, sizes, sizes.astype(np.int64))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_a_diagnosis_is_read_as_it_was_written(run: RunFolder) -> None:
    written = made_up("t0003", "t0010", "t0001-1")
    write_diagnosis(run, written)
    found = read_diagnosis(run)
    assert found is not None
    for field in dataclasses.fields(Diagnosis):
        if field.name != "members":
            assert getattr(found, field.name) == getattr(written, field.name)
    assert list(found.members) == ["t0003", "t0010", "t0001-1"]
    for trial, model in written.members.items():
        assert found.members[trial].trial_id == trial
        for name in ARRAYS:
            expected, values = getattr(model, name), getattr(found.members[trial], name)
            np.testing.assert_array_equal(values, expected)
            assert values.dtype == expected.dtype


def test_its_tables_are_open_to_anyone(run: RunFolder) -> None:
    written = made_up("t0003", "t0010")
    write_diagnosis(run, written)
    assert sorted(path.name for path in run.diagnosis.iterdir()) == [
        *("classes.parquet", "confusion.parquet", "diagnosis.json", "images.parquet")
    ]
    images = pq.read_table(run.diagnosis / "images.parquet").to_pylist()
    assert len(images) == sum(model.image_classes.any(axis=-1).sum() for model in written.members.values())
    for row in images:
        counts = written.members[row["trial_id"]].image_classes[row["image"], row["class"]]
        assert [row["intersection"], row["predicted"], row["truth"]] == counts.tolist()
    classes = pq.read_table(run.diagnosis / "classes.parquet").to_pylist()
    assert classes[2]["boundary_iou"] is None
    assert classes[0]["small_objects"] == written.members["t0003"].size_objects[0, 0]


def test_iou_is_that_of_the_counts() -> None:
    model = counted((3, 4, 5), (0, 0, 0), (0, 2, 0))
    np.testing.assert_array_equal(model.image_iou, [[0.5], [np.nan], [0.0]])
    twice = dataclasses.replace(model, confusion=np.array([[6, 1, 0], [2, 3, 0], [0, 0, 0]]))
    np.testing.assert_allclose(twice.iou, [6 / 9, 3 / 6, np.nan])


def test_examples_are_the_best_and_the_worst_image_of_a_class() -> None:
    model = counted((5, 10, 10), (0, 4, 0), (9, 10, 10), (1, 10, 10), (0, 0, 0))
    assert examples(model) == (Example(0, BEST, 2, 9 / 11), Example(0, WORST, 3, 1 / 19))


def test_of_equal_images_the_first_is_best_and_the_last_worst() -> None:
    assert examples(counted((1, 2, 2), (0, 0, 3), (0, 1, 3), (1, 2, 2))) == (
        Example(0, BEST, 0, 1 / 3),
        Example(0, WORST, 2, 0.0),
    )
    assert examples(counted((4, 4, 4), (4, 4, 4))) == (Example(0, BEST, 0, 1.0), Example(0, WORST, 1, 1.0))


def test_a_class_that_one_image_shows_has_one_example_and_one_that_none_shows_has_none() -> None:
    assert examples(counted((0, 7, 0), (1, 2, 4))) == (Example(0, BEST, 1, 0.2),)
    assert examples(counted((0, 7, 0), (0, 0, 0))) == ()


def test_an_image_that_is_an_example_in_the_end_is_one_as_soon_as_it_comes() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        truth = generator.integers(0, 3, size=(12, 3))
        counts = np.stack([generator.integers(0, truth + 1), truth, truth], axis=-1)
        final = {example.image for example in find_examples(counts)}
        for come in range(len(counts)):
            so_far = counts.copy()
            so_far[come + 1 :] = 0
            assert final & set(range(come + 1)) <= {example.image for example in find_examples(so_far)}


def test_a_front_without_predictions_has_a_diagnosis(run: RunFolder) -> None:
    write_diagnosis(run, made_up())
    found = read_diagnosis(run)
    assert found is not None
    assert (found.members, found.missing) == ({}, made_up().missing)


def test_a_diagnosis_written_anew_keeps_nothing_of_the_old_one(run: RunFolder) -> None:
    for name in (".diagnosis.partial", ".diagnosis.old"):  # left by a writer that was killed
        (run.path / name).mkdir(parents=True)
        (run.path / name / "images.parquet").write_bytes(b"half")
    write_diagnosis(run, made_up("t0003", "t0010"))
    write_diagnosis(run, made_up("t0010"))
    found = read_diagnosis(run)
    assert found is not None
    assert list(found.members) == ["t0010"]
    assert [path.name for path in run.path.iterdir()] == ["diagnosis"]


def test_a_diagnosis_that_cannot_be_finished_leaves_the_old_one(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_diagnosis(run, made_up("t0003"))

    def refuse(_path: Path, _text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("search.diagnosis.write_text_atomically", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_diagnosis(run, made_up("t0010"))
    found = read_diagnosis(run)
    assert found is not None
    assert list(found.members) == ["t0003"]
    assert [path.name for path in run.path.iterdir()] == ["diagnosis"]


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_another_shape_are_refused(name: str, run: RunFolder) -> None:
    model = made_up_model("t0003", 0)
    broken = dataclasses.replace(model, **{name: getattr(model, name)[1:]})
    with pytest.raises(ValueError, match=rf"^{name} of t0003 has shape \(.*; these classes and images make it \("):
        write_diagnosis(run, dataclasses.replace(made_up(), members={"t0003": broken}))
    assert not run.diagnosis.exists()


def test_without_a_diagnosis_there_is_none(run: RunFolder) -> None:
    assert read_diagnosis(run) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"version": 1, "images"', r"diagnosis\.json cannot be read: "),
        ("[]", r"diagnosis\.json has version None; this segmentation-search reads 1"),
        ('{"version": 99}', r"diagnosis\.json has version 99; this segmentation-search reads 1"),
        ('{"version": 1, "images": []}', r"diagnosis is not a diagnosis: KeyError\('classes'\)"),
    ],
)
def test_an_index_that_is_none_is_named(content: str, reason: str, run: RunFolder) -> None:
    run.diagnosis.mkdir(parents=True)
    (run.diagnosis / "diagnosis.json").write_text(content)
    with pytest.raises(RunError, match=reason):
        read_diagnosis(run)


@pytest.mark.parametrize("table", ["confusion", "images", "classes"])
def test_a_table_that_cannot_be_read_is_named(table: str, run: RunFolder) -> None:
    write_diagnosis(run, made_up("t0003"))
    path = run.diagnosis / f"{table}.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(RunError, match=r"The diagnosis in .* cannot be read: "):
        read_diagnosis(run)
    path.unlink()
    with pytest.raises(RunError, match=rf"The diagnosis in .* cannot be read: .*{table}\.parquet"):
        read_diagnosis(run)


@pytest.mark.parametrize("changes", [{"images": list(NAMES[:-1])}, {"members": [{"trial_id": "t0004"}]}])
def test_tables_and_an_index_that_do_not_belong_together_are_refused(changes: dict[str, Any], run: RunFolder) -> None:
    write_diagnosis(run, made_up("t0003"))
    index = run.diagnosis / "diagnosis.json"
    write_text_atomically(index, json.dumps(json.loads(index.read_text()) | changes))
    with pytest.raises(RunError, match="is not a diagnosis: ValueError"):
        read_diagnosis(run)


def test_a_table_without_a_column_is_refused(run: RunFolder) -> None:
    write_diagnosis(run, made_up("t0003"))
    pq.write_table(pa.table({"trial_id": ["t0003"]}), run.diagnosis / "confusion.parquet")
    with pytest.raises(RunError, match=r"diagnosis"):
        read_diagnosis(run)


def test_reading_needs_neither_torch_nor_ray() -> None:
    program = "import sys, search.diagnosis; print({'torch', 'ray', 'wandb', 'optuna'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
