"""Predictions of a kept model: the very ones that its stored metrics were counted from."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray

from trainers.checkpoint import CheckpointError, Checkpoints, load_checkpoint
from trainers.config import TrialConfig
from trainers.datasets import SegmentationData, Split, open_dataset
from trainers.evaluation import ConfusionMatrix, SegmentationMetrics
from trainers.loop import train
from trainers.prediction import predict, select_images, spread

TINY = TrialConfig().replace(
    {
        "data.height": 32,
        "data.width": 48,
        "data.max_images": 10,
        "model.size": "small",
        "model.base_channels": 4,
        "loss.class_weights": "inverse_frequency",
        "optimizer.lr": 1e-2,
        "training.epochs": 6,
        "training.batch_size": 4,
        "training.precision": "fp32",
        "training.device": "cpu",
    }
)
DEEPLAB = {
    "model.architecture": "deeplab",
    "model.backbone": "mobilenet_v3_small",
    "model.decoder_channels": 8,
    "optimizer.lr": 3e-2,
    "training.precision": "bf16",
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data() -> SegmentationData:
    """Ten validation images, three rows of which do not count."""
    data = open_dataset(TINY.data)
    masks = np.array(data.val.masks)
    masks[:, :3] = 255
    return dataclasses.replace(data, val=dataclasses.replace(data.val, masks=masks))


@pytest.fixture(scope="module")
def best(data: SegmentationData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that training ``TINY`` keeps."""
    return train_model(TINY, data, tmp_path_factory.mktemp("trial"))


def train_model(config: TrialConfig, data: SegmentationData, folder: Path) -> Path:
    assert len(list(train(config, data, folder))) == config.training.epochs
    return Checkpoints(folder).best


def predicted(
    config: TrialConfig, checkpoint: Path, data: SegmentationData, indices: Sequence[int], device: str = "cpu"
) -> NDArray[np.uint8]:
    """What the model gives to these validation images."""
    chosen = dataclasses.replace(data, val=select_images(data.val, indices))
    return np.concatenate(list(predict(config, checkpoint, chosen, device)))


def metrics_of(prediction: NDArray[np.uint8], data: SegmentationData) -> SegmentationMetrics:
    matrix = ConfusionMatrix(data.num_classes, "cpu")
    matrix.update(torch.from_numpy(prediction).long(), torch.from_numpy(np.array(data.val.masks)).long())
    return matrix.compute()


def assert_stored_metrics(prediction: NDArray[np.uint8], data: SegmentationData, best: Path) -> None:
    """Exactly: a single pixel in another class would show."""
    metrics, stored = metrics_of(prediction, data), load_checkpoint(best)["metrics"]
    assert metrics.miou == stored["miou"]
    assert metrics.pixel_accuracy == stored["pixel_accuracy"]
    np.testing.assert_array_equal(metrics.iou, stored["iou"])


@pytest.mark.parametrize("changes", [{}, DEEPLAB, {"training.batch_size": 3, "data.crop": 16}])
def test_the_predictions_have_the_stored_metrics(
    changes: dict[str, Any], data: SegmentationData, tmp_path: Path
) -> None:
    config = TINY.replace(changes)
    best = train_model(config, data, tmp_path)
    batches = list(predict(config, best, data, "cpu"))
    assert {len(batch) for batch in batches[:-1]} == {config.training.batch_size}
    prediction = np.concatenate(batches)
    assert prediction.dtype == np.dtype("uint8")
    assert prediction.shape == (10, 32, 48)
    assert len(np.unique(prediction)) > 3
    assert_stored_metrics(prediction, data, best)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_predictions_on_a_gpu_have_the_stored_metrics(
    precision: str, data: SegmentationData, tmp_path: Path
) -> None:
    config = TINY.replace({"training.device": "cuda", "training.precision": precision})
    best = train_model(config, data, tmp_path)
    assert_stored_metrics(predicted(config, best, data, range(len(data.val)), "cuda"), data, best)


def test_chosen_images_come_in_the_order_asked_for(data: SegmentationData, best: Path) -> None:
    everything = predicted(TINY, best, data, range(10))
    assert min((everything[a] != everything[b]).mean() for a, b in itertools.combinations((7, 0, 9), 2)) > 0.02
    chosen = predicted(TINY, best, data, [7, 0, 9])
    assert (chosen != everything[[7, 0, 9]]).mean() < 0.001


def test_random_state_and_initial_weights_do_not_matter(data: SegmentationData, tmp_path: Path) -> None:
    backbone = tmp_path / "backbone.pt"
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), backbone)
    config = TINY.replace(DEEPLAB | {"model.weights": str(backbone)})
    best = train_model(config, data, tmp_path)
    backbone.unlink()
    for seed in (0, 1):
        torch.manual_seed(seed)
        assert_stored_metrics(predicted(config, best, data, range(10)), data, best)


class Witness:
    """An array that remembers which of its rows were read."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self.array, self.shape = array, array.shape
        self.read: set[int] = set()

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        self.read |= set(np.atleast_1d(np.arange(len(self.array))[key]).tolist())
        chosen: NDArray[np.uint8] = self.array[key]
        return chosen


def test_only_the_chosen_images_are_read(data: SegmentationData, best: Path) -> None:
    images, masks = Witness(data.val.images), Witness(data.val.masks)
    split = Split(cast("NDArray[np.uint8]", images), cast("NDArray[np.uint8]", masks), data.val.names)
    predicted(TINY, best, dataclasses.replace(data, val=split), [2, 8])
    assert images.read == {2, 8}
    assert masks.read <= {2, 8}


def test_selected_images_of_a_map_are_in_memory(data: SegmentationData) -> None:
    assert isinstance(data.train.images, np.memmap)
    few = select_images(data.train, (5, 1))
    assert type(few.images) is type(few.masks) is np.ndarray
    np.testing.assert_array_equal(few.images, data.train.images[[5, 1]])
    np.testing.assert_array_equal(few.masks, data.train.masks[[5, 1]])
    assert few.names == (data.train.names[5], data.train.names[1])
    assert len(select_images(data.train, ())) == 0


def change(best: Path, target: Path, **changes: Any) -> Path:
    torch.save(load_checkpoint(best) | changes, target)
    return target


def test_a_checkpoint_that_is_not_there_is_named(data: SegmentationData, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no checkpoint .*best\.pt\."):
        predicted(TINY, tmp_path / "best.pt", data, [0])


def test_a_checkpoint_of_something_else_is_refused(data: SegmentationData, best: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.pt"
    torn.write_bytes(best.read_bytes()[:1000])
    weights = {name: value for name, value in load_checkpoint(best)["model"].items() if "bias" not in name}
    other = [{"name": f"other {index}", "color": [0, 0, 0]} for index in range(data.num_classes)]
    faults = {
        torn: "cannot be read as a checkpoint",
        best.with_name("last.pt"): "is not a trial's best.pt: it lacks model, classes",
        change(best, tmp_path / "weights.pt", model=weights): "does not hold the weights of its own configuration",
        change(best, tmp_path / "classes.pt", classes=other): r"was trained on the classes \['other 0'.*has \['backgr",
    }
    for path, reason in faults.items():
        with pytest.raises(CheckpointError, match=f"{path.name} {reason}"):
            predicted(TINY, path, data, [0])
    with pytest.raises(CheckpointError, match=r"best\.pt belongs to another configuration"):
        predicted(TINY.replace({"optimizer.lr": 2e-2}), best, data, [0])


@pytest.mark.parametrize(
    ("total", "positions"), [(1, [0]), (5, [0, 1, 2, 3, 4]), (6, [0, 1, 2, 3, 4, 5]), (101, [0, 20, 40, 60, 80, 100])]
)
def test_shown_images_are_spread_over_the_set(total: int, positions: list[int]) -> None:
    assert list(spread(total, 6)) == positions


def test_no_image_is_shown_twice() -> None:
    assert {len(set(spread(total, 6))) for total in range(6, 200)} == {6}
