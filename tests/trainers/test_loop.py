"""The training loop on tiny pictures: reproducible, resumable to the last bit, and honest when it cannot go on."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainers import loop
from trainers.checkpoint import CheckpointError, Checkpoints, UnwritableError, load_checkpoint
from trainers.config import TrialConfig
from trainers.datasets import SegmentationData, open_dataset
from trainers.loop import EpochResult, TrainingError, Trial, evaluate, resolve_device, train, untrained_metrics
from trainers.settings import ConfigError

TINY = TrialConfig().replace(
    {
        "data.height": 32,
        "data.width": 32,
        "data.max_images": 8,
        "model.size": "small",
        "model.base_channels": 4,
        "optimizer.lr": 1e-2,
        "training.epochs": 4,
        "training.batch_size": 4,
        "training.precision": "fp32",
        "training.device": "cpu",
    }
)
MOBILENET = {
    "model.architecture": "deeplab",
    "model.backbone": "mobilenet_v3_small",
    "model.decoder_channels": 8,
    "augmentation.policy": "strong",
    "loss.class_weights": "inverse_frequency",
    "training.epochs": 3,
}
MEASURED = ("epoch_time_s", "train_time_s", "images_per_s")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data() -> SegmentationData:
    return open_dataset(TINY.data)


def numbers(results: list[EpochResult]) -> list[str]:
    """What does not depend on the clock, exact (NaN equals NaN)."""
    rows = [dataclasses.asdict(result) for result in results]
    return [repr({name: value for name, value in row.items() if name not in MEASURED}) for row in rows]


def test_the_same_seed_gives_the_same_numbers(data: SegmentationData, tmp_path: Path) -> None:
    one, two = (list(train(TINY, data, tmp_path / name)) for name in ("one", "two"))
    other = list(train(TINY.replace({"training.seed": 1}), data, tmp_path / "other"))
    assert numbers(one) == numbers(two)
    assert numbers(one) != numbers(other)
    assert [result.epoch for result in one] == [1, 2, 3, 4]
    assert one[-1].train_loss < one[0].train_loss


@pytest.mark.parametrize(
    ("changes", "stop_after"),
    [
        ({"schedule.name": "poly", "optimizer.name": "adamax"}, 1),
        ({"schedule.name": "cosine", "data.crop": 16}, 3),
        (MOBILENET | {"schedule.name": "time_decay"}, 1),
        (MOBILENET | {"schedule.name": "multistep", "schedule.milestones": [1, 2], "optimizer.name": "sgd"}, 2),
    ],
)
def test_a_resumed_trial_has_the_numbers_of_an_uninterrupted_one(
    changes: dict[str, Any], stop_after: int, data: SegmentationData, tmp_path: Path
) -> None:
    config = TINY.replace(changes)
    whole = list(train(config, data, tmp_path / "whole"))
    begun = train(config, data, tmp_path / "begun")
    first = list(itertools.islice(begun, stop_after))
    begun.close()  # type: ignore[attr-defined]
    again = list(train(config, data, tmp_path / "begun"))
    assert numbers(again[:stop_after]) == numbers(first)
    assert [result.train_time_s for result in again[:stop_after]] == [result.train_time_s for result in first]
    assert numbers(again) == numbers(whole)
    assert again[-1].train_time_s > first[-1].train_time_s


def test_a_finished_trial_is_only_read_again(data: SegmentationData, tmp_path: Path) -> None:
    done = list(train(TINY, data, tmp_path))
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert numbers(list(train(TINY, data, tmp_path))) == numbers(done)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written


def test_a_checkpoint_of_another_configuration_is_refused(data: SegmentationData, tmp_path: Path) -> None:
    next(train(TINY, data, tmp_path))
    with pytest.raises(CheckpointError, match=r"last\.pt belongs to another configuration: remove it"):
        next(train(TINY.replace({"optimizer.lr": 2e-2}), data, tmp_path))


@pytest.mark.parametrize("broken", ["cut", "text", "empty", "other"])
def test_a_broken_checkpoint_is_named(broken: str, data: SegmentationData, tmp_path: Path) -> None:
    next(train(TINY, data, tmp_path))
    last = Checkpoints(tmp_path).last
    if broken == "cut":
        last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    elif broken == "other":
        torch.save({"version": 0}, last)
    else:
        last.write_bytes(b"not a checkpoint" if broken == "text" else b"")
    with pytest.raises(CheckpointError, match=r"last\.pt (cannot be read as a checkpoint|is not a checkpoint of ver)"):
        next(train(TINY, data, tmp_path))


def test_a_loss_that_is_no_number_ends_the_trial_before_the_weights_take_it(
    data: SegmentationData, tmp_path: Path
) -> None:
    config = TINY.replace({"optimizer.name": "sgd", "optimizer.lr": 1e20})
    with pytest.raises(TrainingError, match=r"The loss became (nan|inf) in epoch \d"):
        list(train(config, data, tmp_path))
    trial = Trial(config, data)
    with torch.no_grad():
        next(trial.model.parameters()).fill_(float("nan"))
    before = [parameter.clone() for parameter in trial.model.parameters()]
    with pytest.raises(TrainingError, match="nan in epoch 7"):
        next(trial.run_epoch(7, 0.0))
    after = trial.model.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before[1:], list(after)[1:], strict=True))


def test_the_best_checkpoint_reproduces_the_best_epoch(data: SegmentationData, tmp_path: Path) -> None:
    results = list(train(TINY, data, tmp_path))
    best = max(results, key=lambda result: result.miou)
    kept = load_checkpoint(Checkpoints(tmp_path).best)
    assert numbers([EpochResult(**kept["metrics"])]) == numbers([best])
    assert [item["name"] for item in kept["classes"]] == [item.name for item in data.classes]
    trial = Trial(TrialConfig.from_dict(kept["config"]), data)
    trial.model.load_state_dict(kept["model"])
    val_loss, metrics = evaluate(trial, data.val)
    assert (metrics.miou, val_loss) == (best.miou, best.val_loss)


def test_a_checkpoint_is_written_while_the_next_epoch_trains(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped = threading.Event()

    def second_epoch(trial: Trial, epoch: int, spent_s: float) -> Iterator[EpochResult | None]:
        for outcome in run_epoch(trial, epoch, spent_s):
            if epoch == 2:
                stepped.set()
            yield outcome

    def save_slowly(self: Checkpoints, content: Mapping[str, Any]) -> None:
        assert len(content["history"]) > 1 or stepped.wait(60), "no step of the second epoch in a minute"
        save_last(self, content)

    run_epoch, save_last = Trial.run_epoch, Checkpoints.save_last
    whole = list(train(TINY, data, tmp_path / "whole"))
    monkeypatch.setattr(Trial, "run_epoch", second_epoch)
    monkeypatch.setattr(Checkpoints, "save_last", save_slowly)
    epochs = train(TINY, data, tmp_path / "beside")
    seen = []
    for result in epochs:
        kept = load_checkpoint(Checkpoints(tmp_path / "beside").last)
        assert len(kept["history"]) == result.epoch, "an epoch is yielded once it is kept, and before the next is"
        seen.append(result)
    assert numbers(seen) == numbers(whole)


def test_what_is_done_between_epochs_changes_nothing_and_counts_in_no_time(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TINY.replace(MOBILENET)  # with dropout, which draws from torch's own generator
    whole = list(train(config, data, tmp_path / "whole"))
    ticks = itertools.count()
    away_s, seen = 0, []
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: away_s + next(ticks)))
    for result in train(config, data, tmp_path / "watched"):
        torch.manual_seed(99)
        away_s += 1_000_000
        seen.append(result)
    assert numbers(seen) == numbers(whole)
    assert all(0 < result.epoch_time_s < 1_000 for result in seen)


def test_an_epoch_that_fails_does_not_take_the_one_before_with_it(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks_in_the_third(trial: Trial, epoch: int, spent_s: float) -> Iterator[EpochResult | None]:
        if epoch == 3:
            raise TrainingError("broken")
        yield from run_epoch(trial, epoch, spent_s)

    run_epoch = Trial.run_epoch
    monkeypatch.setattr(Trial, "run_epoch", breaks_in_the_third)
    epochs = train(TINY, data, tmp_path)
    assert [next(epochs).epoch, next(epochs).epoch] == [1, 2]
    with pytest.raises(TrainingError, match="broken"):
        next(epochs)
    monkeypatch.undo()
    assert [result.epoch for result in train(TINY, data, tmp_path)] == [1, 2, 3, 4]


def test_a_checkpoint_that_cannot_be_written_ends_the_epochs(data: SegmentationData, tmp_path: Path) -> None:
    epochs = train(TINY, data, tmp_path / "there")
    next(epochs)
    shutil.rmtree(tmp_path / "there")
    (tmp_path / "there").touch()
    with pytest.raises(UnwritableError, match="there"):
        list(epochs)


def test_training_beats_the_untrained_model(data: SegmentationData, tmp_path: Path) -> None:
    longer = TINY.replace({"training.epochs": 8})
    best = max(result.miou for result in train(longer, data, tmp_path))
    assert best > untrained_metrics(TINY, data).miou


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_absent_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.device=cuda, but torch sees no GPU here"):
        resolve_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_trial_trains_on_a_gpu_in_half_precision(data: SegmentationData, tmp_path: Path) -> None:
    config = TINY.replace({"training.device": "cuda", "training.precision": "bf16", "training.epochs": 6})
    results = list(train(config, data, tmp_path))
    assert results[-1].train_loss < results[0].train_loss
