"""CamVid with eleven classes: ``images/{train,val}``, ``masks/{train,val}``, mask value 11 is void.

Brostow, Fauqueur and Cipolla, "Semantic object classes in video" (2009), in the split of the SegNet tutorial.
"""

from __future__ import annotations

from trainers.config import DataConfig
from trainers.datasets.folder import dataset_root, pair_folders
from trainers.datasets.masks import index_coding
from trainers.datasets.samples import Listing, SegmentationClass, apply_split

CLASSES = (
    SegmentationClass("sky", (128, 128, 128)),
    SegmentationClass("building", (128, 0, 0)),
    SegmentationClass("pole", (192, 192, 128)),
    SegmentationClass("road", (128, 64, 128)),
    SegmentationClass("pavement", (0, 0, 192)),
    SegmentationClass("tree", (128, 128, 0)),
    SegmentationClass("sign", (192, 128, 128)),
    SegmentationClass("fence", (64, 64, 128)),
    SegmentationClass("car", (64, 0, 128)),
    SegmentationClass("pedestrian", (64, 64, 0)),
    SegmentationClass("bicyclist", (0, 128, 192)),
)
VOID = {11: (0, 0, 0)}


def list_camvid(config: DataConfig) -> Listing:
    """Pairs of the train and val folders."""
    root, coding = dataset_root(config), index_coding(CLASSES, ignored=VOID)
    train, problems = pair_folders(root, "images/train", "masks/train", coding)
    if config.val_fraction is not None:
        return apply_split(Listing(train, (), CLASSES, problems=problems), config, "")
    val, val_problems = pair_folders(root, "images/val", "masks/val", coding)
    listing = Listing(train, val, CLASSES, problems=problems + val_problems)
    return apply_split(listing, config, "validation: the val folder, a clip close to the training clips")
