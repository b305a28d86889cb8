"""For tests of a run that is copied to a storage (a plugin of theirs): nobody waits as long as for a real one."""

from __future__ import annotations

import pytest

from search import copying
from search import storage as storage_module


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (copying, storage_module):
        monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(copying, "LEAST_PAUSE_S", 0.0)
    monkeypatch.setattr(copying, "LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr(copying, "TROUBLE_S", 0.02)
    monkeypatch.setattr(copying, "GIVE_UP_S", 3.0)
