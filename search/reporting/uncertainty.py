"""How sure the front is, in words: an interval for each member's mIoU, and whose place could be luck and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search import columns
from search.luck import IMAGES, LUCK, RESAMPLES, SEEDS, UNKNOWN, Doubt, Interval, Place
from search.reporting.record import Record
from search.reporting.wording import written

INTERVAL, PLACE = "miou_interval", "place"
"""Columns of the front's table."""
_SMALLEST_MIOU = 0.001
"""What three decimals show."""


@dataclass(frozen=True)
class Uncertainty:
    """What the page says of it."""

    doubts: list[str]
    """A sentence for each member whose place could be luck, in the front's order."""
    notes: list[str]
    """What the intervals are of and what they leave out; what was not assessed, and how to get it."""


def uncertainty(record: Record) -> Uncertainty:
    """Put the places of the front into words."""
    places = list(record.places.values())
    doubts = [_doubted(place) for place in places if place.doubts]
    bases = [_of_seeds(places), _of_images(record, places), _without_interval(places)]
    return Uncertainty(doubts, [note for note in [*bases, _unknown(places), _rivals(record)] if note])


def intervals(record: Record) -> dict[str, Any]:
    """What the charts show of each place, as JSON values: its interval, also as written, and whether it could be luck.

    Bounds are rounded to five digits, more than any screen shows.
    """
    return {
        trial: {
            "luck": place.verdict == LUCK,
            "interval": place.interval and [round(place.interval.low, 5), round(place.interval.high, 5)],
            "shown": place.interval and interval_text(place.interval),
        }
        for trial, place in record.places.items()
    }


def interval_text(interval: Interval) -> str:
    """An interval of mIoU with as many digits as mIoU itself."""
    return f"{_signed(interval.low)} to {_signed(interval.high)}"


def _signed(value: float) -> str:
    return written(columns.MIOU, value).replace("-", "−")


def _doubted(place: Place) -> str:
    first, rest = place.doubts[0], len(place.doubts) - 1
    also = f", or than {rest} other{'s' if rest > 1 else ''}," if rest else ""
    margins = ", and by ".join(_margin(first, name) for name in first.margins)
    return (
        f"{place.trial_id} could owe its place to luck: in nothing is it better than {first.rival}{also} by more than "
        f"the noise. It leads {first.rival} by {margins}."
    )


def _margin(doubt: Doubt, name: str) -> str:
    margin = doubt.margins[name]
    if doubt.miou is not None and name == columns.MIOU:
        lead = written(name, margin) if margin >= _SMALLEST_MIOU else f"less than {_SMALLEST_MIOU}"
        return f"{lead} mIoU (95 % interval {interval_text(doubt.miou)}, over {doubt.miou.basis})"
    return f"{written(name, margin)} ms (within the spread of the measurement)"


def _of_seeds(places: Sequence[Place]) -> str:
    if not any(place.interval and place.interval.basis == SEEDS for place in places):
        return ""
    return "The interval of a model that was trained under several seeds is that of the mean over them (Student's t)."


def _of_images(record: Record, places: Sequence[Place]) -> str:
    if record.diagnosis is None or not any(place.interval and place.interval.basis == IMAGES for place in places):
        return ""
    return (
        f"The interval of a model that was trained once comes from {RESAMPLES:,} resamples of the "
        f"{len(record.diagnosis.image_names):,} validation images (bootstrap). It leaves out what the seed did: "
        "training again would move mIoU as well. A search with repeats=3 measures that too."
    )


def _without_interval(places: Sequence[Place]) -> str:
    lacking = [place.trial_id for place in places if place.interval is None]
    if not lacking:
        return ""
    who = "No model of the front has an interval" if len(lacking) == len(places) else f"No interval: {_few(lacking)}"
    return f"{who}: trained once, and not evaluated image by image. A search with repeats=3 gives one."


def _unknown(places: Sequence[Place]) -> str:
    unknown = [place.trial_id for place in places if place.verdict == UNKNOWN]
    if not unknown:
        return ""
    return (
        f"Whether the place is luck was not assessed for {_few(unknown)}: the lead over another model is in a figure "
        "of which no noise is known. A search with repeats=3 measures that of mIoU."
    )


def _rivals(record: Record) -> str:
    if len(record.places) == 0 or len(record.configurations) == len(record.places):
        return ""
    if record.repeated:
        return (
            "Each member is compared with the rest of the front, and, where both ran under several seeds, with the "
            "configurations off the front. Each pair is judged on its own, at 95 %."
        )
    return (
        "Each member is compared with the rest of the front only, each pair on its own, at 95 %: of configurations off "
        "the front that were trained once no noise is known."
    )


def _few(trials: Sequence[str]) -> str:
    """At most five of them by name."""
    more = f" and {len(trials) - 5} more" if len(trials) > 5 else ""
    return ", ".join(trials[:5]) + more


def is_luck(record: Record, trial_id: str) -> bool:
    """Whether this trial is a member of the front whose place could be luck."""
    return trial_id in record.places and record.places[trial_id].verdict == LUCK
