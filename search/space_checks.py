"""What a space must keep besides its form: the trials it draws must be possible and really differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spaces import Assignment, Parameter, Space, SpaceError
from trainers.choices import ARCHITECTURE_FIELDS, READ_ONLY_WHEN, fields_read
from trainers.config import TrialConfig
from trainers.settings import ConfigError

GRID_LIMIT = 10_000
"""Largest space that the sampler ``grid`` lists."""


def list_grid(space: Space) -> list[Assignment]:
    """All configurations of a finite space.

    Raises:
        SpaceError: it is endless or too large.
    """
    listed = space.enumerate(limit=GRID_LIMIT)
    if listed is None:
        raise SpaceError(
            f"sampler.name=grid needs a finite space of at most {GRID_LIMIT} configurations; {space.name!r} is not "
            f"one. Use tpe or random, or replace its ranges by values."
        )
    return listed


def check_values(space: Space, parameter: Parameter, base: TrialConfig) -> None:
    """Refuse a value of ``parameter`` that no trial can have, whatever else is drawn."""
    kinds = {_kind(value) for value in parameter.values if value is not None}
    if len(kinds) > 1:
        raise SpaceError(f"Space {space.name!r}: the values of {parameter.path} mix {' and '.join(sorted(kinds))}.")
    listed = space.enumerate(f"{parameter.path.split('.')[0]}.") or []
    for value in parameter.values or (parameter.low, parameter.high):
        # Some rules look at two settings, so a value may be right only beside certain values of its neighbours.
        points = [point for point in listed if point.get(parameter.path) == value]
        _require_one(base, points or [{parameter.path: value}])


def _require_one(base: TrialConfig, points: Sequence[Assignment]) -> None:
    """Raise the first point's error unless one of them describes a trial."""
    errors = []
    for point in points:
        try:
            base.replace(point)
        except ConfigError as error:
            errors.append(error)
        else:
            return
    raise errors[0]


def _kind(value: Any) -> str:
    names = {bool: "true/false", int: "numbers", float: "numbers", str: "text", list: "lists"}
    return names.get(type(value), type(value).__name__)


def check_reads(space: Space, assignment: Mapping[str, Any], base: TrialConfig) -> None:
    """Refuse a drawn model field that the drawn architecture does not read: two points would silently be one."""
    model = base.replace(assignment).model
    for path in assignment:
        group, _, name = path.partition(".")
        if group == "model" and name not in ("architecture", *fields_read(model.architecture)):
            readers = [key for key, names in ARCHITECTURE_FIELDS.items() if name in names]
            raise SpaceError(
                f"Space {space.name!r} draws {path!r} for model.architecture={model.architecture}, which does not "
                f"read it. Add to it: when: {{model.architecture: [{', '.join(readers)}]}}"
            )


def check_effect(space: Space, parameter: Parameter, base: TrialConfig) -> None:
    """Refuse a drawn setting that is without effect beside some value of the setting it depends on."""
    if parameter.path not in READ_ONLY_WHEN:
        return
    owner, needed = READ_ONLY_WHEN[parameter.path]
    for value in _values_beside(space, parameter, owner, base):
        if value not in needed:
            values = f"[{', '.join(needed)}]" if len(needed) > 1 else needed[0]
            way = f"Add to it: when: {{{owner}: {values}}}" if owner in space.paths else f"Fix {owner} to {values}."
            raise SpaceError(
                f"Space {space.name!r} draws {parameter.path!r} for {owner}={value}, where it has no effect. {way}"
            )


def _values_beside(space: Space, parameter: Parameter, owner: str, base: TrialConfig) -> Sequence[Any]:
    """The values that ``owner`` can have in trials that draw ``parameter``."""
    if owner in parameter.when:
        return parameter.when[owner]
    for other in space.parameters:
        if other.path == owner:
            return other.values
    group, name = owner.split(".")
    return [getattr(getattr(base, group), name)]
