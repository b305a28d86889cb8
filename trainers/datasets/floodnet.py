"""The small FloodNet set of aerial photographs: ``images/{train,test}``, ``masks/{train,test}``, eight classes.

Rahnemoonfar et al., "FloodNet: a high resolution aerial imagery dataset for post flood scene understanding" (2021).
"""

from __future__ import annotations

from trainers.config import DataConfig
from trainers.datasets.folder import dataset_root, pair_folders
from trainers.datasets.masks import index_coding
from trainers.datasets.samples import Listing, SegmentationClass, apply_split

CLASSES = (
    SegmentationClass("background", (0, 0, 0)),
    SegmentationClass("building", (0, 0, 255)),
    SegmentationClass("road", (0, 255, 0)),
    SegmentationClass("water", (0, 255, 255)),
    SegmentationClass("tree", (255, 0, 0)),
    SegmentationClass("vehicle", (255, 0, 255)),
    SegmentationClass("pool", (255, 255, 0)),
    SegmentationClass("grass", (255, 255, 255)),
)


def list_floodnet(config: DataConfig) -> Listing:
    """Pairs of the train and test folders; the set has no third part."""
    root, coding = dataset_root(config), index_coding(CLASSES)
    train, problems = pair_folders(root, "images/train", "masks/train", coding)
    if config.val_fraction is not None:
        return apply_split(Listing(train, (), CLASSES, problems=problems), config, "")
    test, test_problems = pair_folders(root, "images/test", "masks/test", coding)
    listing = Listing(train, test, CLASSES, problems=problems + test_problems)
    return apply_split(listing, config, "validation: the test folder, as the set has no validation part of its own")
