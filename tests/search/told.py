"""A command of ours in this process, which has imported what takes so long: what it said, and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Told:
    """What a command said."""

    code: int
    out: str
    err: str


def tell(main: Callable[[], None], arguments: Sequence[str], capfd: pytest.CaptureFixture[str]) -> Told:
    """Run the command whose entry point is ``main``, as ``python -m`` would."""
    code: object = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [main.__module__, *arguments])
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    told = capfd.readouterr()
    assert "Traceback" not in told.err
    assert isinstance(code, int)
    return Told(code, told.out, told.err)
