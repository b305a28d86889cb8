"""How a command fails."""

from __future__ import annotations

import pytest
from ray.exceptions import RayTaskError

from search.errors import errors_in_one_line
from trainers.settings import ConfigError


def test_a_mistake_that_a_task_found_is_told_in_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    mistake = ConfigError("data.height=0 must be positive.")
    error = RayTaskError("task", "Traceback (most recent call last): ...", mistake)  # type: ignore[no-untyped-call]
    with pytest.raises(SystemExit) as exited, errors_in_one_line():
        raise error.as_instanceof_cause()  # type: ignore[no-untyped-call]
    assert exited.value.code == 2
    assert capsys.readouterr().err == "data.height=0 must be positive.\n"
