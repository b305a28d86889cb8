"""A search space: what may vary, under which condition, and where the search begins.

The vocabulary is that of W&B sweep files plus ``when``. Parameter names are dotted paths into some configuration
dataclass; a space does not know which, :meth:`Space.check_paths` is told.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Assignment = dict[str, Any]
"""Dotted path to value, for the parameters whose conditions hold."""

DISTRIBUTIONS = ("uniform", "log_uniform_values", "int_uniform")
_KEYS = ("question", "parameters", "baselines", "fixed", "compare", "search")
_SCALARS = (str, int, float, bool, type(None))


class SpaceError(ValueError):
    """A space that cannot be; the message names the space's part, its value and what would be right."""


@dataclass(frozen=True)
class Parameter:
    """One thing that varies: either ``values``, or a ``distribution`` between ``low`` and ``high``."""

    path: str
    values: tuple[Any, ...] = ()
    distribution: str | None = None
    low: float = math.nan
    high: float = math.nan
    when: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    """Path of an earlier parameter to the values under which this one exists; all must hold."""

    def applies(self, assignment: Mapping[str, Any]) -> bool:
        """Whether the conditions hold under the values of the parameters above."""
        return all(path in assignment and _among(assignment[path], values) for path, values in self.when.items())

    def contains(self, value: Any) -> bool:
        """Whether ``value`` can be drawn."""
        if self.distribution is None:
            return _among(value, self.values)
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        whole = self.distribution != "int_uniform" or (numeric and float(value).is_integer())
        return numeric and whole and self.low <= value <= self.high

    def optuna_distribution(self) -> BaseDistribution:
        """The same as Optuna has it; lists are offered as their text, since Optuna's choices are scalars."""
        if self.distribution is None:
            return CategoricalDistribution([_choice(value) for value in self.values])
        if self.distribution == "int_uniform":
            return IntDistribution(int(self.low), int(self.high))
        return FloatDistribution(self.low, self.high, log=self.distribution == "log_uniform_values")

    def value_of(self, choice: Any) -> Any:
        """The value that Optuna's ``choice`` stands for."""
        if self.distribution is not None:
            return choice
        return next(value for value in self.values if _same(_choice(value), choice))

    def sweep_entry(self) -> dict[str, Any]:
        """The parameter as a W&B sweep file has it."""
        if self.distribution is None:
            return {"values": list(self.values)}
        whole = self.distribution == "int_uniform"
        low, high = (int(self.low), int(self.high)) if whole else (self.low, self.high)
        return {"distribution": self.distribution, "min": low, "max": high}


def _choice(value: Any) -> Any:
    return value if isinstance(value, _SCALARS) else repr(value)


def _same(a: Any, b: Any) -> bool:
    """Equality that tells ``True`` from 1 (YAML means two different things) but not 1 from 1.0."""
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _among(value: Any, values: Iterable[Any]) -> bool:
    return any(_same(value, other) for other in values)


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
        _refuse_unknown(f"Space {name!r}", content, _KEYS)
        entries = content.get("parameters")
        if not isinstance(entries, Mapping) or not entries:
            raise SpaceError(f"Space {name!r} needs 'parameters': a mapping of at least one path; got {entries!r}.")
        parameters: list[Parameter] = []
        for path, entry in entries.items():
            parameters.append(_read_parameter(str(path), entry, parameters))
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
                assignment[parameter.path] = parameter.value_of(_suggest(trial, parameter))
        return assignment

    def enqueued(self, assignment: Mapping[str, Any]) -> dict[str, Any]:
        """``assignment`` as ``study.enqueue_trial`` wants it."""
        return {path: _choice(value) for path, value in assignment.items()}

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


def _suggest(trial: optuna.trial.BaseTrial, parameter: Parameter) -> Any:
    distribution = parameter.optuna_distribution()
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(parameter.path, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(parameter.path, distribution.low, distribution.high)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(parameter.path, distribution.low, distribution.high, log=distribution.log)


def _refuse_unknown(what: str, content: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise SpaceError(f"{what} has the key {key!r}; known keys are {', '.join(known)}.{hint}")


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


def _read_parameter(path: str, entry: Any, above: list[Parameter]) -> Parameter:
    what = f"Parameter {path!r}"
    if not isinstance(entry, Mapping):
        raise SpaceError(f"{what} must be a mapping with 'values' or 'distribution'; got {entry!r}.")
    _refuse_unknown(what, entry, ("values", "distribution", "min", "max", "when"))
    when = _read_when(path, {} if entry.get("when") is None else entry["when"], above)
    if ("values" in entry) == ("distribution" in entry):
        raise SpaceError(f"{what} needs either 'values' or 'distribution', and not both; got {dict(entry)}.")
    if "values" in entry:
        return Parameter(path, values=_read_values(what, entry), when=when)
    distribution = entry["distribution"]
    if distribution not in DISTRIBUTIONS:
        raise SpaceError(f"{what}: distribution must be one of {', '.join(DISTRIBUTIONS)}; got {distribution!r}.")
    low, high = _read_bounds(what, entry, distribution)
    return Parameter(path, distribution=distribution, low=low, high=high, when=when)


def _read_values(what: str, entry: Mapping[str, Any]) -> tuple[Any, ...]:
    values = entry["values"]
    if not isinstance(values, list) or not values:
        raise SpaceError(f"{what}: 'values' must be a non-empty list; got {values!r}.")
    if any(_same(a, b) for a, b in itertools.combinations(values, 2)):
        raise SpaceError(f"{what}: 'values' lists something twice: {values!r}.")
    if "min" in entry or "max" in entry:
        raise SpaceError(f"{what}: 'min' and 'max' belong to a distribution, not to 'values'.")
    return tuple(values)


def _read_bounds(what: str, entry: Mapping[str, Any], distribution: str) -> tuple[float, float]:
    low, high = entry.get("min"), entry.get("max")
    for name, bound in (("min", low), ("max", high)):
        if not isinstance(bound, int | float) or isinstance(bound, bool) or not math.isfinite(bound):
            raise SpaceError(f"{what}: '{name}' must be a finite number (write 1.0e-4, not 1e-4); got {bound!r}.")
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if low >= high:
        raise SpaceError(f"{what}: 'min' must be below 'max'; got {low} and {high}.")
    if distribution == "log_uniform_values" and low <= 0:
        raise SpaceError(f"{what}: 'min' must be positive for log_uniform_values; got {low}.")
    if distribution == "int_uniform" and not (float(low).is_integer() and float(high).is_integer()):
        raise SpaceError(f"{what}: 'min' and 'max' must be whole numbers for int_uniform; got {low} and {high}.")
    return low, high


def _read_when(path: str, when: Any, above: list[Parameter]) -> dict[str, tuple[Any, ...]]:
    if not isinstance(when, Mapping):
        raise SpaceError(f"Parameter {path!r}: 'when' must map earlier parameters to values; got {when!r}.")
    earlier = {parameter.path: parameter for parameter in above}
    conditions: dict[str, tuple[Any, ...]] = {}
    for name, wanted in when.items():
        if name not in earlier:
            names = ", ".join(earlier) or "none"
            raise SpaceError(f"Parameter {path!r}: 'when' may name only parameters above it ({names}); got {name!r}.")
        values = tuple(wanted) if isinstance(wanted, list) else (wanted,)
        if not values:
            raise SpaceError(f"Parameter {path!r}: 'when' gives {name} no value, so it would never be drawn.")
        for value in values:
            if not earlier[name].contains(value):
                entry = earlier[name].sweep_entry()
                raise SpaceError(f"Parameter {path!r}: {name} is never {value!r}, as its 'when' asks; it has {entry}.")
        conditions[name] = values
    return conditions


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
