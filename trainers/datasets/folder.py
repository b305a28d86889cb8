"""Any ``images/`` and ``masks/`` folders with a class file; the pairing rules are shared by the other layouts.

::

    <root>/images/[train|val/]a.jpg     <root>/masks/[train|val/]a.png     <root>/classes.csv

The class file has the columns ``name,red,green,blue`` and optionally ``index`` (the value in index masks, by default
the row number from 0). Rows named void, ignore or unlabelled are left out of training and scores.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from trainers.config import DataConfig
from trainers.datasets.masks import Color, MaskCoding, open_image
from trainers.datasets.samples import (
    IGNORE_INDEX,
    BadSampleError,
    DataError,
    Listing,
    SegmentationClass,
    apply_split,
)

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
VOID_NAMES = ("void", "ignore", "ignored", "unlabeled", "unlabelled")
CLASS_COLUMNS = ("name", "red", "green", "blue")


@dataclass(frozen=True)
class FilePair:
    """An image file with its mask file."""

    name: str
    image: Path
    mask: Path
    coding: MaskCoding

    def fingerprint(self) -> str:
        """Name, coding, sizes and times of change; a file that is not readable is reported when it is loaded."""
        parts = [self.name, self.coding.fingerprint]
        for path in (self.image, self.mask):
            try:
                stat = path.stat()
                parts.append(f"{path.name} {stat.st_size} {stat.st_mtime_ns}")
            except OSError:
                parts.append(f"{path.name} unreadable")
        return " ".join(parts)

    def load(self, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str | None]:
        """Area-averaged image and nearest-neighbour mask; enlarging is possible and remarked on."""
        image, mask = read_image(self.image), self.coding.read(self.mask)
        if image.shape[:2] != mask.shape:
            sizes = [f"{shape[1]} x {shape[0]}" for shape in (mask.shape, image.shape)]
            raise BadSampleError(f"mask is {sizes[0]} pixels, image is {sizes[1]}")
        enlarged = mask.shape[0] < height or mask.shape[1] < width
        return (
            np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8),
            np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8),
            "smaller than the packed size and enlarged" if enlarged else None,
        )


def list_folder(config: DataConfig) -> Listing:
    """Pairs of the ``folder`` layout: equal stems below ``images`` and ``masks``, or below their train and val."""
    root = dataset_root(config)
    coding = read_class_file(Path(config.classes) if config.classes else root / "classes.csv")
    parts = [part for part in ("train", "val") if any((root / kind / part).is_dir() for kind in ("images", "masks"))]
    if not parts:
        train, problems = pair_folders(root, "images", "masks", coding)
        return apply_split(Listing(train, (), coding.classes, problems=problems), config, "")
    if parts == ["val"]:
        raise DataError(f"{root} has a val folder but no train folder below images and masks.")
    found = {part: pair_folders(root, f"images/{part}", f"masks/{part}", coding) for part in parts}
    val, val_problems = found.get("val", ((), ()))
    train, problems = found["train"]
    if config.val_fraction is not None:
        val, val_problems = (), ()
    listing = Listing(train, val, coding.classes, problems=problems + val_problems)
    return apply_split(listing, config, "validation: the val folder")


def dataset_root(config: DataConfig) -> Path:
    """The folder ``data.root`` names.

    Raises:
        DataError: it is not there.
    """
    assert config.root is not None
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise DataError(f"data.root={config.root} is not a folder.")
    return root


def pair_folders(
    root: Path, images: str, masks: str, coding: MaskCoding
) -> tuple[tuple[FilePair, ...], tuple[str, ...]]:
    """Pair the files of two folders below ``root`` by stem, sorted by name; what has no partner is a problem.

    Raises:
        DataError: a folder is missing, or holds no image file.
    """
    found = {folder: files_by_stem(root / folder) for folder in (images, masks)}
    pairs, problems = [], []
    for stem in sorted(found[images].keys() | found[masks].keys()):
        image_files, mask_files = found[images].get(stem, []), found[masks].get(stem, [])
        for folder, files in ((images, image_files), (masks, mask_files)):
            if len(files) > 1:
                names = ", ".join(path.name for path in files)
                problems.append(f"{folder}/{stem}: several files of one name ({names})")
        if not mask_files:
            problems.append(f"{images}/{image_files[0].name}: no mask of that name in {masks}")
        elif not image_files:
            problems.append(f"{masks}/{mask_files[0].name}: no image of that name in {images}")
        elif len(image_files) == len(mask_files) == 1:
            pairs.append(FilePair(f"{images}/{image_files[0].name}", image_files[0], mask_files[0], coding))
    return tuple(pairs), tuple(problems)


def files_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Image files of a folder under their names without extension; hidden files do not count.

    Raises:
        DataError: the folder is missing, or holds no image file.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is missing.")
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith("."):
            found[path.stem].append(path)
    if not found:
        raise DataError(f"{folder} holds no image file ({', '.join(EXTENSIONS)}).")
    return dict(found)


def read_image(path: Path) -> NDArray[np.uint8]:
    """RGB, shape (height, width, 3), upright as its EXIF orientation says.

    Raises:
        BadSampleError: unreadable, or more than 8 bits a channel.
    """
    with open_image(path) as stored:
        if stored.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"):
            raise BadSampleError(f"image has pixel type {stored.mode}; 8-bit grey and colour images can be read")
        return np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))


def read_class_file(path: Path) -> MaskCoding:
    """Classes and mask coding from a CSV file.

    Raises:
        DataError: no such file, missing columns, a bad number, a repeated name, index or colour, or no class.
    """
    if not path.is_file():
        raise DataError(
            f"The class file {path} is missing. It is a CSV file with the columns name,red,green,blue and optionally "
            "index, one row a class; data.classes=... names another file."
        )
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream, skipinitialspace=True))
    missing = [column for column in CLASS_COLUMNS if not rows or column not in rows[0]]
    if missing:
        raise DataError(f"{path} has no rows with the column{'s' * (len(missing) > 1)} {', '.join(missing)}.")
    entries = [_class_row(path, number, row) for number, row in enumerate(rows)]
    for what, column in (("name", 0), ("colour", 1), ("index", 2)):
        _refuse_repeats(path, what, [entry[column] for entry in entries])
    counted = [entry for entry in entries if entry[0].lower() not in VOID_NAMES]
    if len(counted) < 2:
        raise DataError(f"{path} names {len(counted)} class; segmentation needs at least two.")
    target = {name: index for index, (name, _, _) in enumerate(counted)}
    return MaskCoding(
        classes=tuple(SegmentationClass(name, color) for name, color, _ in counted),
        values={IGNORE_INDEX: IGNORE_INDEX} | {value: target.get(name, IGNORE_INDEX) for name, _, value in entries},
        colors={color: target.get(name, IGNORE_INDEX) for name, color, _ in entries},
    )


def _class_row(path: Path, number: int, row: dict[str, str]) -> tuple[str, Color, int]:
    try:
        red, green, blue = (int(row[column]) for column in CLASS_COLUMNS[1:])
        value = int(row["index"]) if row.get("index") else number
    except (TypeError, ValueError):
        raise DataError(
            f"{path}, row {number + 1}: red, green, blue and index must be whole numbers; got {row}."
        ) from None
    if not all(0 <= part <= IGNORE_INDEX for part in (red, green, blue, value)):
        raise DataError(f"{path}, row {number + 1}: red, green, blue and index must lie in 0 to 255; got {row}.")
    return row["name"].strip(), (red, green, blue), value


def _refuse_repeats(path: Path, what: str, values: list[object]) -> None:
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        raise DataError(f"{path}: the {what} {', '.join(repeated)} stands in several rows.")
