"""Packing: every data set, decoded and resized once, as memory-mapped arrays that all trials of a node share.

A packed set is a folder ``<name>-<hash>`` with ``{train,val}_{images,masks}.npy`` and ``meta.json``. It is written
under another name, synced and renamed, so a folder of the final name is always complete; the hash covers all that
its bytes depend on, so it is never out of date.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from trainers.config import DataConfig
from trainers.datasets.samples import (
    IGNORE_INDEX,
    BadSampleError,
    DataError,
    Listing,
    Sample,
    SegmentationClass,
    SegmentationData,
    Split,
    count_classes,
)

FORMAT_VERSION = 1
DECODE_THREADS = 4
MAX_LISTED = 20
SPLITS = ("train", "val")
SPARE_BYTES = 64 * 1024
"""Room for headers and ``meta.json`` beside the pixels."""

Loaded = tuple[Sample, NDArray[np.uint8] | None, NDArray[np.uint8] | None, str | None]


def open_packed(listing: Listing, config: DataConfig) -> SegmentationData:
    """Memory-map the packed form of ``listing``, packing it first unless that was done before.

    Raises:
        DataError: bad pairs (unless ``data.on_error=skip``), one class only, or a cache that cannot be written.
    """
    folder = cache_folder(config) / "packed" / f"{config.name}-{fingerprint(listing, config)}"
    if not folder.is_dir():
        with _cache_errors(folder, listing, config):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not folder.is_dir():
                    pack(listing, config, folder)
    return _open_folder(folder, config.name)


def cache_folder(config: DataConfig) -> Path:
    """``data.cache``, or ``segmentation-search`` in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``)."""
    if config.cache is not None:
        return Path(config.cache).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "segmentation-search"


def fingerprint(listing: Listing, config: DataConfig) -> str:
    """Hash of everything that the packed bytes depend on."""
    state = {
        "version": FORMAT_VERSION,
        "size": [config.height, config.width],
        "on_error": config.on_error,
        "classes": [[entry.name, entry.color] for entry in listing.classes],
        "notes": listing.notes,
        "problems": listing.problems,
        "train": [sample.fingerprint() for sample in listing.train],
        "val": [sample.fingerprint() for sample in listing.val],
    }
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]


def pack(listing: Listing, config: DataConfig, folder: Path) -> None:
    """Write the packed set to ``folder``, which appears complete or not at all; the caller holds the lock."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        _require_space(partial, listing, config)
        names, problems, notes = {}, list(listing.problems), list(listing.notes)
        for split in SPLITS:
            names[split], bad, remarks = _write_split(partial, split, getattr(listing, split), config)
            problems += bad
            notes += remarks
        if problems:
            notes.append(_leave_out(problems, listing, config))
        meta = {
            "names": names,
            "classes": [[entry.name, list(entry.color)] for entry in listing.classes],
            "notes": notes,
        }
        with (partial / "meta.json").open("wb") as stream:
            stream.write(json.dumps(meta, indent=1).encode())
            _sync(stream)
        _check_content(partial, names, listing, config)
        partial.rename(folder)
        _sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_split(
    partial: Path, split: str, samples: tuple[Sample, ...], config: DataConfig
) -> tuple[list[str], list[str], list[str]]:
    """Stream the good samples to disk; return their names, the problems of the others, and remarks.

    Plain writes rather than a writable map: on a full disk a write raises, a mapped page kills the process.
    """
    names, problems = [], []
    remarked: dict[str, list[str]] = {}
    with ExitStack() as stack:
        paths = [partial / f"{split}_{kind}.npy" for kind in ("images", "masks")]
        images, masks = (stack.enter_context(path.open("wb")) for path in paths)
        image_shape, mask_shape = (config.height, config.width, 3), (config.height, config.width)
        _write_header(images, (len(samples), *image_shape))
        _write_header(masks, (len(samples), *mask_shape))
        for sample, image, mask, said in _load_all(samples, config):
            if image is None or mask is None:
                problems.append(f"{sample.name}: {said}")
                continue
            assert image.shape == image_shape
            assert mask.shape == mask_shape
            images.write(image.tobytes())
            masks.write(mask.tobytes())
            names.append(sample.name)
            if said:
                remarked.setdefault(said, []).append(sample.name)
        _write_header(images, (len(names), *image_shape))
        _write_header(masks, (len(names), *mask_shape))
        _sync(images)
        _sync(masks)
    return names, problems, [f"{split}: {len(who)} images {what}" for what, who in remarked.items()]


def _load_all(samples: Iterable[Sample], config: DataConfig) -> Iterator[Loaded]:
    """Samples in order, decoded a few at a time; a bad one yields no arrays and the reason."""

    def load(sample: Sample) -> Loaded:
        try:
            return sample, *sample.load(config.height, config.width)
        except BadSampleError as error:
            return sample, None, None, str(error)

    with ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="pack") as pool:
        for some in _batches(samples, 4 * DECODE_THREADS):
            yield from pool.map(load, some)


def _batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    items = list(samples)
    return (items[start : start + size] for start in range(0, len(items), size))


def _write_header(stream: BinaryIO, shape: tuple[int, ...]) -> None:
    """The .npy header, first for the expected number of images, then in its place for the true one.

    NumPy pads headers so that a growing first axis fits, hence both are equally long.
    """
    stream.seek(0)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


def _leave_out(problems: list[str], listing: Listing, config: DataConfig) -> str:
    """The note on pairs left out.

    Raises:
        DataError: with ``data.on_error=fail``, listing them.
    """
    shown = problems[:MAX_LISTED]
    if len(problems) > MAX_LISTED:
        shown = [*shown, f"and {len(problems) - MAX_LISTED} more"]
    total = len(listing.train) + len(listing.val) + len(listing.problems)
    if config.on_error == "skip":
        return f"left out {len(problems)} of {total} pairs: " + "; ".join(shown)
    lines = "\n".join(f"  {line}" for line in shown)
    raise DataError(
        f"{len(problems)} of {total} pairs of image and mask in {config.root} cannot be used:\n{lines}\n"
        "Correct them, or leave them out with data.on_error=skip."
    )


def _check_content(partial: Path, names: dict[str, list[str]], listing: Listing, config: DataConfig) -> None:
    where = config.root or config.name
    for split in SPLITS:
        if not names[split]:
            raise DataError(f"No usable pair of image and mask for the {split} split in {where}.")
    counts = count_classes(np.load(partial / "train_masks.npy", mmap_mode="r"))[: len(listing.classes)]
    present = [entry.name for entry, count in zip(listing.classes, counts, strict=True) if count]
    if len(present) < 2:
        found = f"only the class {present[0]!r}" if present else "no class, only ignored pixels"
        raise DataError(
            f"The training masks in {where} hold {found}; segmentation needs at least two. "
            f"Masks must hold class indices from 0 (here up to {len(counts) - 1}, {IGNORE_INDEX} is ignored) "
            "or the colours of the class file."
        )


def _open_folder(folder: Path, name: str) -> SegmentationData:
    meta: dict[str, Any] = json.loads((folder / "meta.json").read_bytes())

    def open_split(split: str) -> Split:
        arrays = [np.load(folder / f"{split}_{kind}.npy", mmap_mode="r") for kind in ("images", "masks")]
        return Split(arrays[0], arrays[1], tuple(meta["names"][split]))

    classes = tuple(SegmentationClass(label, (color[0], color[1], color[2])) for label, color in meta["classes"])
    return SegmentationData(name, open_split("train"), open_split("val"), classes, tuple(meta["notes"]))


def packed_bytes(listing: Listing, config: DataConfig) -> int:
    """Bytes on disk of the packed set if all pairs are good."""
    return (len(listing.train) + len(listing.val)) * config.height * config.width * 4 + SPARE_BYTES


def _require_space(folder: Path, listing: Listing, config: DataConfig) -> None:
    if shutil.disk_usage(folder).free < packed_bytes(listing, config):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def _cache_errors(folder: Path, listing: Listing, config: DataConfig) -> Iterator[None]:
    """Failures of the cache folder as messages that say where, how much, and what to change."""
    try:
        yield
    except OSError as error:
        needed_mb = packed_bytes(listing, config) / 1e6
        problem = "The disk is full" if error.errno == errno.ENOSPC else f"Cannot write ({error.strerror or error})"
        raise DataError(
            f"{problem}: packing data={config.name} needs {needed_mb:.0f} MB in {folder.parent}. "
            "Free some space there, or name another folder with data.cache=..."
        ) from error


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
