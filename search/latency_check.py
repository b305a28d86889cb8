"""The latency of the front once more, after the last trial: was the machine idle both times?

The figures of the search stay what they were. The second ones go to the table ``latency_checks``, and the report shows
both. Two that lie apart say that something else ran during one of the two, but not during which.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.nodes import ClusterError
from search import columns
from search.architectures import ArchitectureTable, Measurement, Row, describe_architecture, forget, profile_now
from search.ledger import now
from search.reporting.record import read_record
from search.results import Table
from search.run_folder import RunFolder
from trainers.config import TrialConfig
from trainers.profiling import ArchitectureProfile

TOLERANCE = 0.05
"""What two medians of an idle machine may lie apart, beyond the spread of single runs."""
WAIT_S = 600.0
"""Longest wait for one measurement: a cluster that lost its nodes must not hold up a search's end."""


@dataclass(frozen=True)
class LatencyCheck:
    """One architecture, measured twice."""

    first: Mapping[str, Any]
    """Its row of ``architectures``."""
    again: Mapping[str, Any]
    """Its row of ``latency_checks``."""

    @property
    def comparable(self) -> bool:
        """Whether both were measured on the same kind of processor."""
        return bool(self.first[columns.DEVICE_NAME] == self.again[columns.DEVICE_NAME])

    @property
    def apart(self) -> float:
        """How far the larger median is above the smaller, relative to that."""
        low, high = sorted(_medians_ms(self))
        return high / low - 1

    @property
    def trusted(self) -> bool:
        """Whether the middle halves of the runs come within :data:`TOLERANCE` of the smaller median."""
        halves_ms = sum(row[columns.LATENCY_SPREAD] * row[columns.LATENCY_MS] / 2 for row in (self.first, self.again))
        low, high = sorted(_medians_ms(self))
        return bool(high - low - halves_ms <= TOLERANCE * low)

    def describe(self) -> str:
        """What is wrong with the two figures, for people."""
        name = describe_architecture(self.again[columns.ARCHITECTURE])
        figures = "{:.3g} ms at first, {:.3g} ms now".format(*_medians_ms(self))
        if not self.comparable:
            devices = f"{self.first[columns.DEVICE_NAME]} at first, {self.again[columns.DEVICE_NAME]} now"
            return f"Latency of {name}: {figures}, on different devices ({devices}), so the two say nothing together."
        return (
            f"Warning: latency of {name}: {figures}, {self.apart:.0%} apart, so the machine was not idle during one of "
            "the two measurements. The search used the first; the next search measures afresh."
        )


def _medians_ms(check: LatencyCheck) -> tuple[float, float]:
    return check.first[columns.LATENCY_MS], check.again[columns.LATENCY_MS]


def show_latency_check(run: RunFolder, architectures: ArchitectureTable, say: Callable[[str], None]) -> None:
    """Measure the front's architectures again and say what came of it; a search that is done must not fail for it."""
    try:
        checks = check_latencies(run, read_record(run).front_rows, architectures)
    except KeyboardInterrupt:
        again = f"python -m search.run {run.argument('resume')}"
        say(f"Interrupted while the latency of the front was measured again. To have it: {again}")
    except ClusterError as error:
        say(f"The latency of the front was not measured again: {error}")
    except Exception as error:
        logging.getLogger(__name__).exception("The latency of the front was not measured again.")
        say(f"The latency of the front was not measured again: {type(error).__name__}: {error}")
    else:
        for sentence in told(checks):
            say(sentence)


def check_latencies(run: RunFolder, members: Iterable[Row], architectures: ArchitectureTable) -> list[LatencyCheck]:
    """Measure each architecture of ``members`` again, unless an earlier process did, and record it.

    Nothing else may run on the cluster.

    Args:
        run: the run, whose trials have ended.
        members: rows of ``trials`` with ``config``.
        architectures: the run's first measurements.

    Raises:
        ConfigError: an architecture cannot be measured any more as the settings say.
        ClusterError: no node is left that could, or there was no answer.
        ray.exceptions.RayError: the process that measured died.
        OSError: the run's folder cannot be written.
    """
    table = Table(run.results / "latency_checks", columns.latency_checks_schema())
    done = {_key(row) for row in table.read().to_pylist()}
    checks = []
    for member in members:
        trial = TrialConfig.from_dict(json.loads(member[columns.CONFIG]))
        first = architectures.row(trial)
        if first is None or _key(first) in done:
            continue
        done.add(_key(first))
        profile = architectures.run_task(measure_again, trial, first, claim=True, timeout_s=WAIT_S)
        again = again_row(first[columns.ARCHITECTURE], profile)
        table.append(again)
        table.flush()
        checks.append(LatencyCheck(first, again))
    return checks


def measure_again(work: Measurement, first: Row) -> ArchitectureProfile:
    """The task: measure, and remove the cached figure where it is in doubt."""
    profile = profile_now(work)
    check = LatencyCheck(first, again_row(work.architecture, profile))
    if check.comparable and not check.trusted:
        forget(work)
    return profile


def again_row(architecture: str, profile: ArchitectureProfile) -> Row:
    """The row of ``latency_checks``."""
    return {
        columns.ARCHITECTURE: architecture,
        columns.DEVICE: profile.device,
        columns.DEVICE_NAME: profile.device_name,
        columns.HEIGHT: profile.height,
        columns.WIDTH: profile.width,
        columns.LATENCY_MS: profile.latency_ms,
        columns.LATENCY_P95_MS: profile.latency_p95_ms,
        columns.LATENCY_SPREAD: profile.latency_spread,
        columns.OTHERS_BUSY: profile.others_busy,
        columns.MEASURED_AT: now(),
    }


def told(checks: Sequence[LatencyCheck]) -> list[str]:
    """What the checks say, for people: one sentence, and one more for each architecture whose figures disagree."""
    if not checks:
        return []
    apart = [check.apart for check in checks if check.comparable]
    most = f": the medians lie at most {max(apart):.1%} apart" if apart else ""
    number = f"{len(checks)} architecture{'s' if len(checks) > 1 else ''}"
    bad = [check for check in checks if not (check.comparable and check.trusted)]
    return [f"Latency of the front measured again, {number}{most}", *(check.describe() for check in bad)]


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in columns.MEASURED)
