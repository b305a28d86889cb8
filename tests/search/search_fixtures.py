"""For tests of whole searches (a plugin of theirs): a W&B server, and a folder to start searches in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from real_search import SPACE
from wandb_server import WandbServer


@pytest.fixture(scope="module")
def server() -> Iterator[WandbServer]:
    """W&B, as far as every process started here knows."""
    with WandbServer() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to start searches in, with the space ``tiny``."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "conf" / "space").mkdir(parents=True)
    (folder / "conf" / "space" / "tiny.yaml").write_text(SPACE)
    return folder
