"""One thing that a space varies: its values, its condition, and how a space's YAML file describes it."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

DISTRIBUTIONS = ("uniform", "log_uniform_values", "int_uniform")
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
            return CategoricalDistribution([as_choice(value) for value in self.values])
        if self.distribution == "int_uniform":
            return IntDistribution(int(self.low), int(self.high))
        return FloatDistribution(self.low, self.high, log=self.distribution == "log_uniform_values")

    def value_of(self, choice: Any) -> Any:
        """The value that Optuna's ``choice`` stands for."""
        if self.distribution is not None:
            return choice
        return next(value for value in self.values if _same(as_choice(value), choice))

    def suggest(self, trial: BaseTrial) -> Any:
        """The value that Optuna chooses for ``trial``."""
        distribution = self.optuna_distribution()
        if isinstance(distribution, CategoricalDistribution):
            return self.value_of(trial.suggest_categorical(self.path, distribution.choices))
        if isinstance(distribution, IntDistribution):
            return trial.suggest_int(self.path, distribution.low, distribution.high)
        assert isinstance(distribution, FloatDistribution)
        return trial.suggest_float(self.path, distribution.low, distribution.high, log=distribution.log)

    def draw(self, chance: random.Random) -> Any:
        """A value at random, as its distribution says."""
        if self.distribution is None:
            return chance.choice(self.values)
        if self.distribution == "int_uniform":
            return chance.randint(int(self.low), int(self.high))
        if self.distribution == "uniform":
            return chance.uniform(self.low, self.high)
        # Rounding may carry a draw past its bounds.
        value = math.exp(chance.uniform(math.log(self.low), math.log(self.high)))
        return min(max(value, self.low), self.high)

    def sweep_entry(self) -> dict[str, Any]:
        """The parameter as a W&B sweep file has it."""
        if self.distribution is None:
            return {"values": list(self.values)}
        whole = self.distribution == "int_uniform"
        low, high = (int(self.low), int(self.high)) if whole else (self.low, self.high)
        return {"distribution": self.distribution, "min": low, "max": high}


def as_choice(value: Any) -> Any:
    """What Optuna is offered for ``value``: lists as their text, since its choices are scalars."""
    return value if isinstance(value, _SCALARS) else repr(value)


def _same(a: Any, b: Any) -> bool:
    """Equality that tells ``True`` from 1 (YAML means two different things) but not 1 from 1.0."""
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _among(value: Any, values: Iterable[Any]) -> bool:
    return any(_same(value, other) for other in values)


def refuse_unknown(what: str, content: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    """Raise SpaceError for a key of ``content`` that is not among the ``known``, naming the nearest."""
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise SpaceError(f"{what} has the key {key!r}; known keys are {', '.join(known)}.{hint}")


def read_parameter(path: str, entry: Any, above: list[Parameter]) -> Parameter:
    """The parameter that ``entry`` of a space's file describes, below the parameters ``above``.

    Raises:
        SpaceError: as :meth:`spaces.Space.from_dict`.
    """
    what = f"Parameter {path!r}"
    if not isinstance(entry, Mapping):
        raise SpaceError(f"{what} must be a mapping with 'values' or 'distribution'; got {entry!r}.")
    refuse_unknown(what, entry, ("values", "distribution", "min", "max", "when"))
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
