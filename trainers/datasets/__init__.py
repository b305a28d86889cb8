"""Segmentation data sets, all behind :func:`open_dataset`.

A layout file (``folder.py``, ``voc.py``, ...) lists samples and classes; ``packed.py`` checks, resizes and packs them
once; everything else sees only the two memory-mapped arrays of a :class:`Split`.
"""

from __future__ import annotations

from collections.abc import Callable

from trainers.config import DataConfig
from trainers.datasets.camvid import list_camvid
from trainers.datasets.floodnet import list_floodnet
from trainers.datasets.folder import list_folder
from trainers.datasets.packed import open_packed
from trainers.datasets.samples import (
    IGNORE_INDEX,
    ClassCounts,
    DataError,
    Listing,
    SegmentationClass,
    SegmentationData,
    Split,
    neutral_color,
)
from trainers.datasets.scenes import list_scenes
from trainers.datasets.voc import list_voc

__all__ = [
    "IGNORE_INDEX",
    "ClassCounts",
    "DataError",
    "SegmentationClass",
    "SegmentationData",
    "Split",
    "neutral_color",
    "open_dataset",
]

LAYOUTS: dict[str, Callable[[DataConfig], Listing]] = {
    "camvid": list_camvid,
    "floodnet": list_floodnet,
    "folder": list_folder,
    "scenes": list_scenes,
    "voc": list_voc,
}


def open_dataset(config: DataConfig) -> SegmentationData:
    """Open a data set, packing it on first use; later calls, in any process of the node, only memory-map.

    Raises:
        DataError: the data are missing, empty or wrong, or the cache cannot be written; the message is complete.
    """
    return open_packed(LAYOUTS[config.name](config), config)
