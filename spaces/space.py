"""A search space: what may vary, under which condition, and where the search begins.

The vocabulary is that of W&B sweep files plus ``when``. Parameter names are dotted paths into some configuration
dataclass; a space does not know which, :meth:`Space.check_paths` is told.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import random
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType, UnionType
from typing import Any

import optuna

from spaces.parameter import Parameter, SpaceError, as_choice, read_parameter, refuse_unknown

Assignment = dict[str, Any]
"""Dotted path to value, for the parameters whose conditions hold."""

_KEYS = ("question", "parameters", "baselines", "fixed", "compare", "search")


@dataclass(frozen=True)
class Space:
    """Parameters in the order drawn, the configurations drawn first, and values fixed for all trials."""

    name: str
    question: str
    parameters: tuple[Parameter, ...]
    baselines: tuple[Assignment, ...] = ()
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    compare: tuple[tuple[str, ...], ...] = ()
    """The factors that the question is about, each one parameter or several that vary together."""
    search: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """How the search itself is run to answer the question, unless its user says otherwise."""

    @classmethod
    def from_dict(cls, name: str, content: Any) -> Space:
        """Read what a space's YAML file holds.

        Raises:
            SpaceError: unknown keys, a parameter that is neither ``values`` nor a distribution, bounds that are
                none, a ``when`` on a later or unknown parameter or an impossible value, a baseline outside the space,
                a factor to compare that is no parameter.
        """
        if not isinstance(content, Mapping):
            raise SpaceError(f"Space {name!r} must be a mapping with the key 'parameters'; got {content!r}.")
        refuse_unknown(f"Space {name!r}", content, _KEYS)
        entries = content.get("parameters")
        if not isinstance(entries, Mapping) or not entries:
            raise SpaceError(f"Space {name!r} needs 'parameters': a mapping of at least one path; got {entries!r}.")
        parameters: list[Parameter] = []
        for path, entry in entries.items():
            parameters.append(read_parameter(str(path), entry, parameters))
        fixed = _section(name, content, "fixed", dict, "map paths to values")
        both = sorted(fixed.keys() & {parameter.path for parameter in parameters})
        if both:
            raise SpaceError(f"Space {name!r} both varies and fixes {', '.join(both)}: keep one of the two.")
        compare = _read_compare(name, content, [parameter.path for parameter in parameters])
        search = _section(name, content, "search", dict, "map settings of the search to values")
        question = str(content.get("question") or "")
        space = cls(name, question, tuple(parameters), (), fixed, compare, search)
        points = _section(name, content, "baselines", list, "be a list of mappings")
        baselines = [space.check_assignment(point) for point in points]
        for one, other in itertools.combinations(baselines, 2):
            if one == other:
                raise SpaceError(f"Space {name!r} has the baseline {one} twice.")
        return dataclasses.replace(space, baselines=tuple(baselines))

    @property
    def paths(self) -> tuple[str, ...]:
        """Dotted paths of the parameters, in order."""
        return tuple(parameter.path for parameter in self.parameters)

    def dependents(self, paths: Iterable[str]) -> set[str]:
        """Parameters that exist only under certain values of ``paths``, by their own condition or a chain of them."""
        found: set[str] = set()
        for parameter in self.parameters:  # conditions name earlier parameters only, so one pass follows any chain
            if parameter.when.keys() & (set(paths) | found):
                found.add(parameter.path)
        return found

    def check_paths(self, schema: type) -> None:
        """Refuse parameters and fixed values that are no field of the dataclass ``schema``.

        Raises:
            SpaceError: naming the path and the nearest known one.
        """
        known = sorted(_leaves(schema))
        for path in (*self.paths, *self.fixed):
            if path not in known:
                near = difflib.get_close_matches(path, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(known)}."
                raise SpaceError(f"Space {self.name!r} names {path!r}, which no trial has.{hint}")

    def check_assignment(self, values: Any) -> Assignment:
        """``values`` if it gives each parameter whose condition holds a possible value, and no other.

        Raises:
            SpaceError: a missing, superfluous or impossible value.
        """
        if not isinstance(values, Mapping):
            raise SpaceError(f"A baseline of space {self.name!r} must map paths to values; got {values!r}.")
        assignment: Assignment = {}
        for parameter in self.parameters:
            if not parameter.applies(assignment):
                continue
            if parameter.path not in values:
                raise SpaceError(f"Baseline {dict(values)} of space {self.name!r} leaves out {parameter.path!r}.")
            value = values[parameter.path]
            if not parameter.contains(value):
                raise SpaceError(
                    f"Baseline {dict(values)} of space {self.name!r}: {parameter.path} cannot be {value!r}; "
                    f"it is one of {parameter.sweep_entry()}."
                )
            assignment[parameter.path] = value
        extra = sorted(values.keys() - assignment.keys())
        if extra:
            raise SpaceError(
                f"Baseline {dict(values)} of space {self.name!r} sets {', '.join(extra)} beyond the space."
            )
        return assignment

    def suggest(self, trial: optuna.trial.BaseTrial) -> Assignment:
        """Draw an assignment, define-by-run: a parameter whose condition fails is not asked for."""
        assignment: Assignment = {}
        for parameter in self.parameters:
            if parameter.applies(assignment):
                assignment[parameter.path] = parameter.suggest(trial)
        return assignment

    def draw(self, chance: random.Random, given: Mapping[str, Any] = MappingProxyType({})) -> Assignment:
        """An assignment at random; parameters that are among ``given`` keep their value wherever they exist."""
        assignment: Assignment = {}
        for parameter in self.parameters:
            if parameter.applies(assignment):
                path = parameter.path
                assignment[path] = given[path] if path in given else parameter.draw(chance)
        return assignment

    def enqueued(self, assignment: Mapping[str, Any]) -> dict[str, Any]:
        """``assignment`` as ``study.enqueue_trial`` wants it."""
        return {path: as_choice(value) for path, value in assignment.items()}

    def enumerate(self, prefix: str = "", limit: int = 10_000) -> list[Assignment] | None:
        """The distinct assignments of the parameters under ``prefix``; none when a range or too many are among them.

        Conditions on parameters outside ``prefix`` are followed too.
        """
        wanted = [parameter for parameter in self.parameters if parameter.path.startswith(prefix)]
        needed = _with_conditions(wanted, self.parameters)
        if any(parameter.distribution is not None and parameter.distribution != "int_uniform" for parameter in needed):
            return None
        found: dict[str, Assignment] = {}
        for assignment in _expand(needed):
            part = {path: value for path, value in assignment.items() if path.startswith(prefix)}
            found.setdefault(repr(part), part)
            if len(found) > limit:
                return None
        return list(found.values())

    def size(self) -> int | None:
        """How many configurations there are; none when a continuous range makes them endless."""
        if any(parameter.distribution in ("uniform", "log_uniform_values") for parameter in self.parameters):
            return None
        return sum(1 for _ in _expand(self.parameters))

    def sweep_parameters(self) -> dict[str, Any]:
        """The parameters as a W&B sweep has them, nested as a trial's settings are; conditions have no counterpart."""
        root: dict[str, Any] = {}
        for parameter in self.parameters:
            *groups, leaf = parameter.path.split(".")
            level = root
            for group in groups:
                level = level.setdefault(group, {"parameters": {}})["parameters"]
            level[leaf] = parameter.sweep_entry()
        return root

    def drawn_in(self, settings: Mapping[str, Any]) -> Assignment:
        """The assignment that the nested ``settings`` of a trial came from.

        Raises:
            KeyError: settings without one of the parameters.
        """
        assignment: Assignment = {}
        for parameter in self.parameters:
            if parameter.applies(assignment):
                value: Any = settings
                for key in parameter.path.split("."):
                    value = value[key]
                assignment[parameter.path] = value
        return assignment


def _section(name: str, content: Mapping[str, Any], key: str, kind: type, rule: str) -> Any:
    """What stands under ``key``; an empty ``kind`` where nothing does."""
    section = kind() if content.get(key) is None else content[key]
    if not isinstance(section, kind):
        raise SpaceError(f"Space {name!r}: {key!r} must {rule}; got {section!r}.")
    return section


def _read_compare(name: str, content: Mapping[str, Any], paths: list[str]) -> tuple[tuple[str, ...], ...]:
    factors: list[tuple[str, ...]] = []
    for entry in _section(name, content, "compare", list, "be a list of parameters, or of lists of them"):
        factor = tuple(map(str, entry)) if isinstance(entry, list) else (str(entry),)
        for path in factor:
            if path not in paths:
                near = difflib.get_close_matches(path, paths, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else f" Its parameters: {', '.join(paths)}."
                raise SpaceError(f"Space {name!r} compares {path!r}, which it does not draw.{hint}")
        factors.append(factor)
    return tuple(factors)


def _with_conditions(wanted: list[Parameter], all_of: tuple[Parameter, ...]) -> list[Parameter]:
    """``wanted`` and whatever their conditions name, in the space's order."""
    needed = {parameter.path for parameter in wanted}
    for parameter in reversed(all_of):
        if parameter.path in needed:
            needed |= parameter.when.keys()
    return [parameter for parameter in all_of if parameter.path in needed]


def _expand(parameters: Iterable[Parameter]) -> Iterator[Assignment]:
    """Every assignment of parameters without continuous ranges."""
    partial: Iterator[Assignment] = iter([{}])
    for parameter in parameters:
        partial = _extend(partial, parameter)
    return partial


def _extend(partial: Iterator[Assignment], parameter: Parameter) -> Iterator[Assignment]:
    for assignment in partial:
        if not parameter.applies(assignment):
            yield assignment
            continue
        values = parameter.values or range(int(parameter.low), int(parameter.high) + 1)
        for value in values:
            yield assignment | {parameter.path: value}


def _leaves(schema: type, prefix: str = "") -> Iterator[str]:
    """Dotted paths of the leaf fields of nested dataclasses."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type) and not isinstance(kind, UnionType):
            yield from _leaves(kind, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name
