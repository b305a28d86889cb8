"""A trial as it is written where there is no system for it: files decoded by a DataLoader, fp32, an mIoU an epoch.

``python tests/benchmarks/plain_trial.py ROOT FOLDER TRIAL`` trains the trial of the JSON object TRIAL on the images and
masks under ROOT and leaves ``miou.json`` and ``best.pt`` in FOLDER. One thread, and no loader processes: on as many
cores as there are trials they only take from one another.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from albumentations import Compose, HorizontalFlip, Normalize, Resize, VerticalFlip
from albumentations.pytorch import ToTensorV2
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

CLASSES = 8
"""Of the scenes."""
IGNORED = 255


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """The image files of a split and their masks of class indices."""

    def __init__(self, root: Path, split: str, size: tuple[int, int]) -> None:
        self._images = sorted((root / "images" / split).iterdir())
        self._masks = sorted((root / "masks" / split).iterdir())
        flips = [HorizontalFlip(p=0.5), VerticalFlip(p=0.5)] if split == "train" else []
        resize = Resize(*size, interpolation=cv2.INTER_AREA, mask_interpolation=cv2.INTER_NEAREST)
        self._transform = Compose([resize, *flips, Normalize(), ToTensorV2()])

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = cv2.imread(str(self._images[index]))
        assert image is not None
        mask = cv2.imread(str(self._masks[index]), cv2.IMREAD_GRAYSCALE)
        made = self._transform(image=cv2.cvtColor(image, cv2.COLOR_BGR2RGB), mask=mask)
        return made["image"], made["mask"].long()


def train(root: Path, folder: Path, trial: Mapping[str, Any]) -> Iterator[float]:
    """Yield the validation mIoU of each epoch; the best weights are kept in ``folder``."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: nn.Module = smp.create_model(
        trial["architecture"], trial["backbone"], encoder_weights=None, classes=CLASSES
    ).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=trial["lr"])
    criterion = nn.CrossEntropyLoss(ignore_index=IGNORED)
    train_set, val_set = (Pictures(root, split, trial["size"]) for split in ("train", "val"))
    batches = DataLoader(train_set, batch_size=trial["batch"], shuffle=True, drop_last=True)
    best = 0.0
    for _ in range(trial["epochs"]):
        model.train()
        for images, masks in batches:
            optimizer.zero_grad()
            criterion(model(images.to(device)), masks.to(device)).backward()
            optimizer.step()
        miou = evaluate(model, DataLoader(val_set, batch_size=trial["batch"]), device)
        if miou >= best:
            best = miou
            torch.save(model.state_dict(), folder / "best.pt")
        yield miou


def evaluate(model: nn.Module, batches: DataLoader[tuple[Tensor, Tensor]], device: torch.device) -> float:
    """Mean IoU over the classes that occur, from one confusion matrix."""
    counts = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    model.eval()
    with torch.no_grad():
        for images, masks in batches:
            found = model(images.to(device)).argmax(dim=1).cpu().numpy()
            truth = masks.numpy()
            known = truth != IGNORED
            places = truth[known] * CLASSES + found[known]
            counts += np.bincount(places, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    hit, union = np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1) - np.diag(counts)
    return float((hit[union > 0] / union[union > 0]).mean())


def main() -> None:
    """Train one trial."""
    root, folder, trial = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    folder.mkdir(parents=True)
    (folder / "miou.json").write_text(json.dumps(list(train(root, folder, trial))))


if __name__ == "__main__":
    main()
