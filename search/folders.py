"""Folders that appear whole: a reader finds the old content, for a moment nothing, then the new."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_folder(place: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of ``place`` once the block ends; a failure leaves what was there.

    What a writer that was killed left beside it is removed. One writer at a time.
    """
    new, old = place.with_name(f".{place.name}.partial"), place.with_name(f".{place.name}.old")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        yield new
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            place.rename(old)
        new.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
