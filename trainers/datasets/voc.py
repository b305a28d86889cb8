"""PASCAL VOC 2012 segmentation: ``JPEGImages``, ``SegmentationClass``, ``ImageSets/Segmentation/{train,val}.txt``.

Everingham et al., "The PASCAL visual object classes (VOC) challenge" (2010): 20 classes and background; 255, the
border of objects, is ignored.
"""

from __future__ import annotations

from pathlib import Path

from trainers.config import DataConfig
from trainers.datasets.folder import FilePair, dataset_root
from trainers.datasets.masks import Color, MaskCoding, index_coding
from trainers.datasets.samples import IGNORE_INDEX, DataError, Listing, SegmentationClass, apply_split

NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus"),
    *("car", "cat", "chair", "cow", "dining table", "dog", "horse"),
    *("motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor"),
)


def palette_color(index: int) -> Color:
    """The colour VOC's palette gives ``index``: its bits, dealt to red, green and blue from the highest bit down."""
    bits = [(index >> bit) & 1 for bit in range(8)]
    red, green, blue = (
        sum(bits[3 * k + channel] << (7 - k) for k in range(3) if 3 * k + channel < 8) for channel in range(3)
    )
    return red, green, blue


CLASSES = tuple(SegmentationClass(name, palette_color(index)) for index, name in enumerate(NAMES))


def list_voc(config: DataConfig) -> Listing:
    """Pairs that the two lists name; ``data.root`` is the VOC2012 folder, or the folder that holds VOCdevkit."""
    given = dataset_root(config)
    roots = (given, given / "VOC2012", given / "VOCdevkit" / "VOC2012")
    root = next((path for path in roots if (path / "ImageSets" / "Segmentation").is_dir()), None)
    if root is None:
        raise DataError(f"data.root={config.root} holds no ImageSets/Segmentation, nor VOCdevkit/VOC2012 with it.")
    coding = index_coding(CLASSES, ignored={IGNORE_INDEX: palette_color(IGNORE_INDEX)})
    train, problems = _listed_pairs(root, "train", coding)
    if config.val_fraction is not None:
        return apply_split(Listing(train, (), CLASSES, problems=problems), config, "")
    val, val_problems = _listed_pairs(root, "val", coding)
    listing = Listing(train, val, CLASSES, problems=problems + val_problems)
    return apply_split(listing, config, "validation: ImageSets/Segmentation/val.txt")


def _listed_pairs(root: Path, part: str, coding: MaskCoding) -> tuple[tuple[FilePair, ...], tuple[str, ...]]:
    names_file = root / "ImageSets" / "Segmentation" / f"{part}.txt"
    if not names_file.is_file():
        raise DataError(f"{names_file} is missing.")
    stems = sorted(set(names_file.read_text(encoding="utf-8").split()))
    if not stems:
        raise DataError(f"{names_file} names no image.")
    pairs, problems = [], []
    for stem in stems:
        image, mask = root / "JPEGImages" / f"{stem}.jpg", root / "SegmentationClass" / f"{stem}.png"
        missing = [path.relative_to(root).as_posix() for path in (image, mask) if not path.is_file()]
        if missing:
            problems.append(f"{stem}: named in {part}.txt, but {' and '.join(missing)} missing")
        else:
            pairs.append(FilePair(f"JPEGImages/{stem}.jpg", image, mask, coding))
    return tuple(pairs), tuple(problems)
