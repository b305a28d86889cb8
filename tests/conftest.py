"""For all tests: no cache, account or run of this machine's user takes part."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch
from playwright.sync_api import Browser, sync_playwright

from cluster.authentication import authenticate_local_cluster

# Before any test module imports Ray, which reads it once: clusters that tests start have a token of their own.
authenticate_local_cluster()


@pytest.fixture(autouse=True, scope="session")
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Packed data and profiles go to a temporary folder, and W&B finds no login in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_ENTITY", "WANDB_PROJECT"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """The numbers of a trial are those of its number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")  # no longer: its event loop stays the running one of this thread
def browser() -> Iterator[Browser]:
    """Chromium."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on the PATH")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the tests on a cluster those files that may take longest come first, so that two workers end together."""
    items.sort(key=_limit_s, reverse=True)


def _limit_s(item: pytest.Item) -> float:
    limit = item.get_closest_marker("timeout") if item.get_closest_marker("cluster") else None
    return float(limit.args[0]) if limit else 0.0
