"""Paired comparisons, against numbers worked out by hand and by scipy."""

from __future__ import annotations

import itertools
import math
import random
import time
from typing import Any

import pytest
from scipy import stats

from search import columns
from search.comparisons import Contrast, Factor, compare, mean_effect
from spaces import Space

Row = dict[str, Any]


def space(compared: list[Any], **parameters: Any) -> Space:
    entries = {path.replace("__", "."): entry for path, entry in parameters.items()}
    return Space.from_dict("test", {"parameters": entries, "compare": compared})


ASPP = {"values": [False, True]}
RATES = {"values": [[12, 24], [1, 2]], "when": {"model.aspp": True}}


def aspp_space(compared: list[Any]) -> Space:
    return space(compared, model__aspp=ASPP, model__output_stride={"values": [32, 8]}, model__aspp_rates=RATES)


def row(number: int, miou: float | None, seed: int = 0, **values: Any) -> Row:
    """A completed trial; ``values`` are parameters (``model__aspp``) and columns."""
    drawn = {name.replace("__", "."): value for name, value in values.items()}
    return {
        columns.TRIAL_ID: f"t{number:04d}",
        columns.CONFIGURATION: f"t{number:04d}",
        columns.REPEAT: 0,
        columns.STATE: columns.COMPLETED,
        columns.REASON: None,
        columns.SEED: seed,
        columns.MIOU: miou,
        columns.LATENCY_MS: 5.0,
        columns.SIZE_MB: 1.0,
    } | drawn


def aspp_rows() -> list[Row]:
    """Both output strides: ASPP with two rates against none."""
    return [
        row(0, 0.50, model__aspp=False, model__output_stride=32),
        row(1, 0.60, model__aspp=False, model__output_stride=8),
        row(2, 0.48, model__aspp=True, model__output_stride=32, model__aspp_rates="[12, 24]"),
        row(3, 0.54, model__aspp=True, model__output_stride=32, model__aspp_rates="[1, 2]"),
        row(4, 0.61, model__aspp=True, model__output_stride=8, model__aspp_rates="[12, 24]"),
        row(5, 0.65, model__aspp=True, model__output_stride=8, model__aspp_rates="[1, 2]"),
    ]


def only(rows: list[Row], searched: Space, classes: tuple[str, ...] = ()) -> Factor:
    (factor,) = compare(rows, searched, classes).factors
    return factor


def contrast(rows: list[Row], searched: Space) -> Contrast:
    (found,) = only(rows, searched).contrasts
    return found


@pytest.mark.parametrize("differences", [[0.01, 0.03], [0.02, -0.01, 0.005, 0.04, 0.0, 0.013]])
def test_interval_is_that_of_the_t_test(differences: list[float]) -> None:
    effect = mean_effect(differences)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert effect.mean == pytest.approx(sum(differences) / len(differences))
    assert effect.interval == pytest.approx((expected.low, expected.high))


def test_two_pairs_by_hand() -> None:
    effect = mean_effect([0.01, 0.03])  # standard error 0.01, t(0.975, 1) = 12.7062
    assert effect.interval == pytest.approx((0.02 - 0.127062, 0.02 + 0.127062), abs=1e-6)
    assert not effect.shown


def test_one_pair_has_no_interval() -> None:
    effect = mean_effect([0.2])
    assert (effect.mean, effect.pairs, effect.interval, effect.shown) == (0.2, 1, None, False)


@pytest.mark.parametrize(("value", "shown"), [(0.0, False), (0.3 - 0.2 - 0.1, False), (0.1, True), (-0.1, True)])
def test_equal_differences_leave_no_doubt(value: float, shown: bool) -> None:
    effect = mean_effect([value] * 3)
    assert effect.interval == pytest.approx((effect.mean, effect.mean), abs=0)
    assert effect.shown == shown


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    noise = random.Random(0)
    searched = space(["model.aspp"], model__aspp=ASPP, optimizer__lr={"values": [1e-3, 1e-4]})
    covered = 0
    for _ in range(400):
        places = itertools.product([1e-3, 1e-4], range(3))
        rows = []
        for number, (lr, seed) in enumerate(places):
            level = 0.5 + 10 * lr + noise.gauss(0, 0.05)  # what a pair has in common must not matter
            for aspp in (False, True):
                miou = level + noise.gauss(0, 0.01)
                rows.append(row(2 * number + aspp, miou, seed, model__aspp=aspp, optimizer__lr=lr))
        effect = contrast(rows, searched).effect
        assert effect is not None
        assert effect.pairs == 6
        covered += not effect.shown
    assert 0.92 <= covered / 400 <= 0.98


def test_trials_that_only_dependents_tell_apart_count_once() -> None:
    found = contrast(aspp_rows(), aspp_space(["model.aspp"]))
    expected = [(0.48 + 0.54) / 2 - 0.50, (0.61 + 0.65) / 2 - 0.60]
    assert found.effect == mean_effect(expected)
    assert (found.reference, found.level) == ("false", "true")


def test_effect_is_split_by_dependents_and_by_what_is_held_equal() -> None:
    rows = aspp_rows() + [
        entry | {columns.TRIAL_ID: f"s{index}", columns.CONFIGURATION: f"s{index}", columns.SEED: 1}
        for index, entry in enumerate(aspp_rows())
    ]
    splits = {(split.path, split.value): split.effect for split in contrast(rows, aspp_space(["model.aspp"])).splits}
    means = {where: (round(effect.mean, 6), effect.pairs) for where, effect in splits.items()}
    assert means == {
        ("model.output_stride", "32"): (0.01, 2),
        ("model.output_stride", "8"): (0.03, 2),
        ("model.aspp_rates", "[12, 24]"): (-0.005, 4),
        ("model.aspp_rates", "[1, 2]"): (0.045, 4),
    }


def interplay_rows(differences: dict[int, list[float]]) -> list[Row]:
    """Without and with ASPP at each output stride, under as many seeds as there are differences."""
    rows: list[Row] = []
    for stride, values in differences.items():
        for seed, difference in enumerate(values):
            place = {"model__output_stride": stride, "seed": seed}
            rows.append(row(len(rows), 0.5 + 0.01 * seed, model__aspp=False, **place))
            rows.append(row(len(rows), 0.5 + 0.01 * seed + difference, model__aspp=True, **place))
    return rows


@pytest.mark.parametrize(
    ("differences", "depends"),
    [
        ({32: [-0.05, -0.04, -0.06], 8: [0.05, 0.06, 0.04]}, True),
        ({32: [-0.05, 0.04, 0.01], 8: [0.05, -0.06, 0.02]}, False),
        ({32: [0.0, 0.0], 8: [0.02, 0.02]}, True),  # no spread at all within either
        ({32: [0.02, 0.02], 8: [0.02, 0.02]}, False),
        ({32: [-0.05], 8: [0.05, 0.06]}, False),  # one pair has no spread to compare with
    ],
)
def test_an_effect_that_differs_between_values_depends_on_them(
    differences: dict[int, list[float]], depends: bool
) -> None:
    searched = space(["model.aspp"], model__aspp=ASPP, model__output_stride={"values": [32, 8]})
    found = contrast(interplay_rows(differences), searched)
    assert found.depends_on == (("model.output_stride",) if depends else ())


def test_interplay_is_seen_no_oftener_by_chance_than_it_should() -> None:
    searched = space(["model.aspp"], model__aspp=ASPP, model__output_stride={"values": [32, 8]})
    chance = random.Random(0)
    seen = 0
    for _ in range(200):
        drawn = {stride: [chance.gauss(0.01, 0.02) for _ in range(4)] for stride in (32, 8)}
        seen += bool(contrast(interplay_rows(drawn), searched).depends_on)
    assert 0.01 * 200 <= seen <= 0.1 * 200


def test_a_dependent_is_compared_where_it_exists() -> None:
    factor = only(aspp_rows(), aspp_space(["model.aspp_rates"]))
    assert [level.label for level in factor.levels] == ["[12, 24]", "[1, 2]"]
    assert [len(level.trials) for level in factor.levels] == [2, 2]
    assert factor.contrasts[0].effect == mean_effect([0.54 - 0.48, 0.65 - 0.61])


def test_joint_factors_have_joint_levels() -> None:
    factor = only(aspp_rows(), aspp_space([["model.aspp", "model.aspp_rates"]]))
    labels = ["aspp false", "aspp true, aspp_rates [12, 24]", "aspp true, aspp_rates [1, 2]"]
    assert [level.label for level in factor.levels] == labels
    assert factor.contrasts[1].effect == mean_effect([0.54 - 0.50, 0.65 - 0.60])
    assert factor.shared_contexts == 2


def test_names_of_a_joint_level_stand_alone() -> None:
    backbones = {"values": ["resnet18"], "when": {"model.architecture": "deeplab"}}
    searched = space(
        [["model.architecture", "model.backbone"]],
        model__architecture={"values": ["unet", "deeplab"]},
        model__backbone=backbones,
    )
    rows = [
        row(0, 0.5, model__architecture="deeplab", model__backbone="resnet18"),
        row(1, 0.4, model__architecture="unet", model__backbone=None),
    ]
    assert [level.label for level in only(rows, searched).levels] == ["unet", "deeplab resnet18"]


def test_a_context_without_partner_is_left_out() -> None:
    rows = aspp_rows()[1:]  # the plain trial at output stride 32 is missing
    found = contrast(rows, aspp_space(["model.aspp"]))
    assert found.effect == mean_effect([(0.61 + 0.65) / 2 - 0.60])
    assert found.splits == ()


def test_another_seed_is_no_partner() -> None:
    rows = [
        row(0, 0.5, 0, model__aspp=False, model__output_stride=32),
        row(1, 0.6, 1, model__aspp=True, model__output_stride=32, model__aspp_rates="[1, 2]"),
    ]
    factor = only(rows, aspp_space(["model.aspp"]))
    assert factor.contrasts[0].effect is None
    assert not factor.paired
    assert factor.shared_contexts == 0
    assert [level.mean for level in factor.levels] == [0.5, 0.6]


@pytest.mark.parametrize(
    "spoiled", [{columns.MIOU: math.nan}, {columns.MIOU: None}, {columns.STATE: columns.STOPPED, columns.MIOU: 0.99}]
)
def test_only_completed_trials_with_a_miou_count(spoiled: Row) -> None:
    rows = aspp_rows()
    rows[0] |= spoiled
    factor = only(rows, aspp_space(["model.aspp"]))
    assert factor.contrasts[0].effect == mean_effect([(0.61 + 0.65) / 2 - 0.60])
    assert [len(level.trials) for level in factor.levels] == [1, 4]


def repeated_rows() -> list[Row]:
    """Two learning rates under three seeds, with and without ASPP."""
    reached = {
        (False, 1e-3): (0.50, 0.52, 0.54),
        (False, 1e-4): (0.60, 0.62, 0.64),
        (True, 1e-3): (0.55, 0.56, 0.60),
        (True, 1e-4): (0.40, 0.41, 0.45),
    }
    rows = []
    for number, ((aspp, lr), mious) in enumerate(reached.items()):
        for repeat, miou in enumerate(mious):
            one = row(number, miou, 7 + repeat, model__aspp=aspp, optimizer__lr=lr)
            rows.append(one | {columns.REPEAT: repeat, columns.TRIAL_ID: f"t{number:04d}-{repeat}"})
    return rows


LR_SPACE = space(["model.aspp"], model__aspp=ASPP, optimizer__lr={"values": [1e-3, 1e-4]})


def test_best_of_each_is_over_repeats_and_paired_by_seed() -> None:
    factor = only(repeated_rows(), LR_SPACE)
    plain, aspp = factor.levels
    assert (plain.configurations, len(plain.trials)) == (2, 6)
    assert (plain.best[columns.MIOU], plain.best["optimizer.lr"]) == (pytest.approx(0.62), 1e-4)
    assert (aspp.best[columns.MIOU], aspp.best["optimizer.lr"]) == (pytest.approx(0.57), 1e-3)
    assert plain.best[columns.MIOU_STD] == pytest.approx(0.02)
    found = factor.contrasts[0]
    assert found.best is not None
    assert found.best.mean == pytest.approx(-0.05)
    assert found.best.pairs == 3
    assert found.effect == mean_effect([0.05, 0.04, 0.06, -0.20, -0.21, -0.19])


def test_level_mean_and_spread() -> None:
    plain = only(repeated_rows(), LR_SPACE).levels[0]
    mious = [0.50, 0.52, 0.54, 0.60, 0.62, 0.64]
    assert plain.mean == pytest.approx(0.57)
    assert plain.std == pytest.approx(stats.tstd(mious))
    expected = stats.ttest_1samp(mious, 0).confidence_interval()
    assert plain.interval == pytest.approx((expected.low, expected.high))


def test_classes_are_compared_over_the_same_pairs() -> None:
    rows = repeated_rows()
    for entry in rows:
        entry["iou/pool"] = 0.43 if entry["model.aspp"] else 0.0
        entry["iou/never there"] = None
    rows.append(row(9, 0.9, 99, model__aspp=True, optimizer__lr=1e-3) | {"iou/pool": 0.9, "iou/never there": 0.9})
    factor = only(rows, LR_SPACE, ("pool", "never there"))
    assert factor.contrasts[0].classes == {"iou/pool": mean_effect([0.43] * 6)}
    assert [level.typical["iou/pool"] for level in factor.levels] == [0.0, pytest.approx(0.43)]
    assert factor.levels[0].typical["iou/never there"] is None


def test_classes_fall_back_to_all_trials_without_a_shared_context() -> None:
    rows = [
        row(0, 0.5, 0, model__aspp=False, optimizer__lr=1e-3) | {"iou/pool": 0.2},
        row(1, 0.6, 1, model__aspp=True, optimizer__lr=1e-3) | {"iou/pool": 0.3},
        row(2, 0.6, 2, model__aspp=True, optimizer__lr=1e-3) | {"iou/pool": 0.5},
    ]
    factor = only(rows, LR_SPACE, ("pool",))
    assert [level.typical["iou/pool"] for level in factor.levels] == [0.2, 0.4]
    assert factor.contrasts[0].classes == {}


def test_without_named_factors_all_that_took_several_values_are_compared() -> None:
    searched = space(
        [],
        model__aspp=ASPP,
        loss__name={"values": ["cross_entropy"]},
        optimizer__lr={"distribution": "uniform", "min": 0.1, "max": 0.2},
        training__batch_size={"values": [8, 16]},
    )
    drawn = {"loss.name": "cross_entropy", "optimizer.lr": 0.15, "training.batch_size": 8}
    found = compare([row(0, 0.5, model__aspp=False) | drawn, row(1, 0.6, model__aspp=True) | drawn], searched)
    assert [factor.paths for factor in found.factors] == [("model.aspp",)]
    assert (found.ranges, found.constant) == ((), ())


def test_factors_that_cannot_be_compared_are_named() -> None:
    lr = {"distribution": "uniform", "min": 0.1, "max": 0.2}
    searched = space(["model.aspp", "optimizer.lr"], model__aspp=ASPP, optimizer__lr=lr)
    found = compare([row(0, 0.5, model__aspp=False, optimizer__lr=0.15)], searched)
    assert (found.factors, found.ranges, found.constant) == ((), (("optimizer.lr",),), (("model.aspp",),))
    assert compare([], searched).factors == ()


def test_null_is_a_value_where_the_space_says_so() -> None:
    searched = space(["training.clip"], training__clip={"values": [None, 1.0]})
    rows = [row(0, 0.5, training__clip=None), row(1, 0.6, training__clip=1.0)]
    found = contrast(rows, searched)
    assert (found.reference, found.level) == ("null", "1.0")
    assert found.effect == mean_effect([0.6 - 0.5])


def test_ten_thousand_trials_are_quick() -> None:
    noise = random.Random(1)
    choices = {f"model.p{index}": list(range(4)) for index in range(8)}
    searched = Space.from_dict(
        "many", {"parameters": {path: {"values": values} for path, values in choices.items()}, "compare": []}
    )
    classes = tuple(map(str, range(8)))
    ious = {columns.iou_column(name): 0.5 for name in classes}
    rows = [
        row(number, noise.random(), **{path: noise.choice(values) for path, values in choices.items()}) | ious
        for number in range(10_000)
    ]
    began = time.process_time()
    found = compare(rows, searched, classes)
    assert time.process_time() - began < 8
    assert len(found.factors) == 8
