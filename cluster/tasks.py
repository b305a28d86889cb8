"""What Ray tasks return, and what they raise."""

from __future__ import annotations

from typing import TypeVar

import ray
from ray.exceptions import RayTaskError

_Found = TypeVar("_Found")


def result_of(task: ray.ObjectRef[_Found], expected: type[Exception]) -> _Found:
    """What a task returns; an ``expected`` error is raised here as it was raised there.

    Raises:
        RayTaskError: any other error, with its traceback.
        RayError: the task's process died.
    """
    try:
        return ray.get(task)
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, expected) else error from None
