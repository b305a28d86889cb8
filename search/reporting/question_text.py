"""Comparisons in words: what differs by how much, how surely, and what must be kept in mind."""

from __future__ import annotations

from collections.abc import Sequence

from search import columns
from search.comparisons import Contrast, Effect, Level
from search.reporting.wording import written

NEAR_ZERO, OFF_ZERO = 0.01, 0.02
"""A class below the first IoU is as good as never found; from the second on it is found now and then."""
NOTES = (
    "A pair is two completed trials that differ in the factor only: the same other settings and the same seed, hence "
    "the same order of batches and the same augmentation. Trials that differ in settings which exist under one value "
    "only are averaged first, so that each setting and seed counts once.",
    "Intervals are Student's t at 95 %, taking pairs as independent, for one comparison at a time: among twenty that "
    "make no difference, one is expected to look like one. No difference shown is not the same as no difference: the "
    "interval says how large it may be. That one interval excludes zero and another does not is no sign that the two "
    "differ; that a difference depends on another setting is said where an analysis of variance shows it at 5 %.",
    "The best configuration was picked by its result, so its mIoU flatters, the more the more configurations there "
    "were to pick from; its mean and spread are over its own runs under several seeds.",
)


def contrast(name: str, found: Contrast) -> str:
    """Does it help? In one sentence."""
    versus = f"{name}, {found.level} against {found.reference}"
    if found.effect is None:
        return f"{versus}: no pair."
    said = f"{versus}: {difference(found.effect)}: {verdict(found.effect, found.level)}"
    if not found.depends_on:
        return f"{said}."
    return f"{said} on average, but it depends on {' and on '.join(_within(found, path) for path in found.depends_on)}."


def _within(found: Contrast, path: str) -> str:
    """A parameter that the difference depends on, with the difference at each value."""
    splits = [f"{points(split.effect)[0]} at {split.value}" for split in found.splits if split.path == path]
    return f"{path} ({', '.join(splits)})"


def clarity(found: Contrast) -> tuple[int, float]:
    """Sorts contrasts, the clearest first: shown ones, then those with an interval, with one pair, with none."""
    if found.effect is None:
        return 3, 0.0
    rank = 0 if found.effect.shown else 1 if found.effect.interval else 2
    return rank, -abs(found.effect.mean)


def difference(effect: Effect, what: str = "pair") -> str:
    """``+0.8 mIoU points (95 % -0.5 to +2.1) over 6 pairs``."""
    mean, interval = points(effect)
    if not interval:
        return f"{mean} mIoU points, one {what}"
    return f"{mean} mIoU points (95 % {interval}) over {effect.pairs} {what}s"


def points(effect: Effect) -> tuple[str, str]:
    """The mean and its interval in points of IoU (hundredths); the interval is empty for one pair.

    One decimal, or as many as it takes to see on which side of zero the interval ends that excludes it.
    """
    bounds = effect.interval or ()
    nearest = min(map(abs, bounds), default=0.0)
    decimals = next((few for few in (1, 2, 3) if not effect.shown or round(100 * nearest, few)), 4)
    mean, *ends = (f"{round(100 * value, decimals) + 0.0:+.{decimals}f}" for value in (effect.mean, *bounds))
    return mean, " to ".join(ends)


def verdict(effect: Effect, level: str = "") -> str:
    """What the difference says, of ``level`` when it is named."""
    if effect.interval is None:
        return "no interval"
    if effect.interval == (0.0, 0.0):
        return "the same in every pair"
    if not effect.shown:
        return "no difference shown"
    word = "better" if effect.mean > 0 else "worse"
    return f"{word} with {level}" if level else word


def unpaired(names: Sequence[str]) -> list[str]:
    """That nothing is paired for these factors; no sentence for none."""
    if not names:
        return []
    which = f"{names[0]} alone" if len(names) == 1 else f"one of these alone: {', '.join(names)}"
    return [f"No two completed trials differ in {which}; so nothing is paired, and below are means of unlike trials."]


def with_spread(mean: float, std: float | None) -> str:
    """mIoU and its standard deviation: ``0.512 ± 0.004``."""
    value = written(columns.MIOU, mean)
    return value if std is None else f"{value} ± {written(columns.MIOU, std)}"


def best_of_each(levels: Sequence[Level], contrasts: Sequence[Contrast], name: str = "") -> str:
    """The best configuration of each level, and how it compares with that of the reference, the first level."""
    against = {found.level: f", {_best_difference(found.best)}" for found in contrasts}
    sides = [f"{_best(level)}{against.get(level.label, '')}" for level in levels]
    which = f"each {name}" if name else "each"
    return f"The best configuration of {which}: {'; '.join(sides)}."


def _best(level: Level) -> str:
    runs = level.best[columns.REPEATS]
    mean = with_spread(level.best[columns.MIOU], level.best[columns.MIOU_STD])
    return f"{level.label} {mean} ({level.best[columns.TRIAL_ID]}, {runs} run{'s' if runs > 1 else ''})"


def _best_difference(effect: Effect | None) -> str:
    if effect is None:
        return "not paired for want of a common seed"
    return f"{difference(effect, 'seed')}: {verdict(effect)}"


def class_changes(found: Contrast, reference: Level, level: Level, classes: Sequence[str]) -> list[str]:
    """Which classes gain and lose the most, and which leave or fall to zero."""
    versus = f"{found.level} against {found.reference}"
    lines = [f"Single classes, {versus}: {said}." for said in _extremes(found, classes)]
    for here, there, verb in ((reference, level, "rise from"), (level, reference, "fall to")):
        moved = [name for name in classes if _is_found(name, there) and _is_lost(name, here)]
        if moved:
            listed = ", ".join(f"{name} ({_iou(name, reference)} → {_iou(name, level)})" for name in moved)
            lines.append(f"Classes that {verb} near zero, {versus}: {listed}.")
    return lines


def _extremes(found: Contrast, classes: Sequence[str]) -> list[str]:
    """The largest gain and the largest loss among classes whose interval excludes zero; none without pairs."""
    effects = {name: found.classes[key] for name in classes if (key := columns.iou_column(name)) in found.classes}
    if not any(effect.interval for effect in effects.values()):
        return []
    shown = sorted((effect.mean, name) for name, effect in effects.items() if effect.shown)
    if not shown:
        return [f"no difference shown for any of {len(effects)}"]
    named = [(shown[-1], "gains")] if shown[-1][0] > 0 else []
    named += [(shown[0], "loses")] if shown[0][0] < 0 else []
    parts = []
    for (_, name), verb in named:
        mean, interval = points(effects[name])
        parts.append(f"{name} {verb} most, {mean} points (95 % {interval})")
    return ["; ".join(parts)]


def _is_found(name: str, level: Level) -> bool:
    value = level.typical[columns.iou_column(name)]
    return value is not None and value >= OFF_ZERO


def _is_lost(name: str, level: Level) -> bool:
    value = level.typical[columns.iou_column(name)]
    return value is not None and value < NEAR_ZERO


def _iou(name: str, level: Level) -> str:
    return f"{level.typical[columns.iou_column(name)]:.2f}"


def class_basis(shared: int) -> str:
    """Over what the IoU of classes is averaged."""
    if shared:
        places = (
            f"the {shared} settings and seeds that all values share" if shared > 1 else "the one setting they share"
        )
        return f"Means over {places}."
    return (
        "No setting and seed is shared by all values: these are means over all completed trials of each, unlike ones."
    )


def stopped_early(number: int) -> str:
    """What stopping does to the comparison."""
    were = "trial was" if number == 1 else "trials were"
    return (
        f"{number} {were} stopped early and counts for nothing here: a pair is known only where both of it went to "
        "the end, which favours what starts fast."
    )
