"""Spaces: what they read and refuse, what they list, what they let Optuna draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf

from spaces import Space, SpaceError, shipped_spaces
from trainers.config import TrialConfig

optuna.logging.set_verbosity(optuna.logging.WARNING)

UNET, DEEPLAB = {"model.architecture": "unet"}, {"model.architecture": "deeplab"}
CONTENT: dict[str, Any] = {
    "question": "Which?",
    "parameters": {
        "model.architecture": {"values": ["unet", "deeplab"]},
        "model.size": {"values": ["small", "medium"], "when": UNET},
        "model.aspp": {"values": [True, False], "when": DEEPLAB},
        "model.aspp_rates": {"values": [[6, 12, 18], [3, 6, 9]], "when": {"model.aspp": True}},
        "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
    },
    "baselines": [{"model.architecture": "unet", "model.size": "small", "optimizer.lr": 1e-3}],
    "fixed": {"training.epochs": 3},
}
MODELS: list[dict[str, Any]] = [
    {"model.architecture": "unet", "model.size": "small"},
    {"model.architecture": "unet", "model.size": "medium"},
    {"model.architecture": "deeplab", "model.aspp": True, "model.aspp_rates": [6, 12, 18]},
    {"model.architecture": "deeplab", "model.aspp": True, "model.aspp_rates": [3, 6, 9]},
    {"model.architecture": "deeplab", "model.aspp": False},
]


def space_of(parameters: dict[str, Any], **rest: Any) -> Space:
    return Space.from_dict("mine", {"parameters": parameters} | rest)


def draw(space: Space, count: int) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = []
    for _ in range(count):
        trial = study.ask()
        drawn.append(space.suggest(trial))
        study.tell(trial, 0.0)
    return drawn


def test_a_space_is_read_in_the_order_written() -> None:
    space = Space.from_dict("mine", CONTENT)
    assert (space.name, space.question) == ("mine", "Which?")
    assert space.paths == tuple(CONTENT["parameters"])
    assert space.baselines == tuple(CONTENT["baselines"])
    assert space.fixed == {"training.epochs": 3}


def test_conditions_hold_through_several_parameters() -> None:
    rates = Space.from_dict("mine", CONTENT).parameters[3]
    assert rates.applies({"model.architecture": "deeplab", "model.aspp": True})
    assert not rates.applies({"model.architecture": "deeplab", "model.aspp": False})
    assert not rates.applies({"model.architecture": "unet", "model.size": "small"})


def test_a_condition_may_name_several_values_and_several_parameters() -> None:
    space = space_of(
        {
            "a": {"values": [1, 2, 3]},
            "b": {"values": ["x", "y"]},
            "c": {"values": [True, False], "when": {"a": [1, 2], "b": "x"}},
        }
    )
    with_c = {(point["a"], point["b"]) for point in space.enumerate() or [] if "c" in point}
    assert with_c == {(1, "x"), (2, "x")}


def test_architectures_are_the_distinct_assignments_under_the_prefix() -> None:
    assert Space.from_dict("mine", CONTENT).enumerate("model.") == MODELS


def test_a_continuous_range_cannot_be_listed() -> None:
    space = Space.from_dict("mine", CONTENT)
    assert space.enumerate() is None
    assert space.size() is None


def test_more_than_the_limit_is_not_listed() -> None:
    space = Space.from_dict("mine", CONTENT)
    assert len(space.enumerate("model.", limit=5) or []) == 5
    assert space.enumerate("model.", limit=4) is None


def test_the_prefix_follows_conditions_on_parameters_outside_it() -> None:
    space = space_of(
        {
            "data.crop": {"values": [32, 64]},
            "model.size": {"values": ["small", "medium"], "when": {"data.crop": 64}},
            "optimizer.lr": {"distribution": "uniform", "min": 0, "max": 1},
        }
    )
    assert space.enumerate("model.") == [{}, {"model.size": "small"}, {"model.size": "medium"}]


def test_whole_numbers_are_counted_with_their_conditions() -> None:
    space = space_of(
        {
            "a": {"distribution": "int_uniform", "min": 2, "max": 4},
            "b": {"values": ["x", "y"], "when": {"a": [3, 4]}},
        }
    )
    assert space.size() == 1 + 2 + 2
    assert space.enumerate() == [
        {"a": 2},
        {"a": 3, "b": "x"},
        {"a": 3, "b": "y"},
        {"a": 4, "b": "x"},
        {"a": 4, "b": "y"},
    ]


def test_optuna_draws_what_the_conditions_allow_and_all_of_it() -> None:
    drawn = draw(Space.from_dict("mine", CONTENT), 100)
    models = [{path: value for path, value in point.items() if path != "optimizer.lr"} for point in drawn]
    assert all(model in MODELS for model in models)
    assert all(model in models for model in MODELS)
    assert all(1e-4 <= point["optimizer.lr"] <= 1e-2 for point in drawn)


def test_optuna_is_never_asked_for_a_parameter_whose_condition_fails() -> None:
    space = Space.from_dict("mine", CONTENT)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        trial = study.ask()
        assert space.suggest(trial).keys() == trial.params.keys()


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"distribution": "int_uniform", "min": 1, "max": 4}, {1, 2, 3, 4}),
        ({"values": ["a", "b"]}, {"a", "b"}),
        ({"values": [None, 64, 96]}, {None, 64, 96}),
        ({"values": [0.5, 1]}, {0.5, 1}),
    ],
)
def test_all_values_are_drawn(entry: dict[str, Any], expected: set[Any]) -> None:
    assert {point["p"] for point in draw(space_of({"p": entry}), 60)} == expected


def test_true_and_one_are_two_values() -> None:
    drawn = [point["p"] for point in draw(space_of({"p": {"values": [True, 1, "1"]}}), 60)]
    assert {(type(value), value) for value in drawn} == {(bool, True), (int, 1), (str, "1")}


def test_a_baseline_with_a_list_is_drawn_as_it_is() -> None:
    space = Space.from_dict("mine", CONTENT)
    point = {**MODELS[3], "optimizer.lr": 1e-3}
    study = optuna.create_study()
    study.enqueue_trial(space.enqueued(point))
    assert space.suggest(study.ask()) == point


def test_the_sweep_has_the_words_of_wandb_and_the_nesting_of_a_trial() -> None:
    sweep = Space.from_dict("mine", CONTENT).sweep_parameters()
    assert sweep["model"]["parameters"]["aspp_rates"] == {"values": [[6, 12, 18], [3, 6, 9]]}
    assert sweep["optimizer"]["parameters"]["lr"] == {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}
    whole = space_of({"p": {"distribution": "int_uniform", "min": 1.0, "max": 8.0}}).sweep_parameters()["p"]
    assert whole == {"distribution": "int_uniform", "min": 1, "max": 8}
    assert isinstance(whole["max"], int)
    deep = space_of({"loss.terms.dice": {"values": [0.5]}}).sweep_parameters()
    assert deep == {"loss": {"parameters": {"terms": {"parameters": {"dice": {"values": [0.5]}}}}}}


def test_what_was_drawn_is_read_off_a_trials_settings() -> None:
    space = space_of({"a.kind": {"values": ["x", "y"]}, "a.rate": {"values": [1, 2], "when": {"a.kind": "y"}}})
    assert space.drawn_in({"a": {"kind": "x", "rate": 1}, "b": 3}) == {"a.kind": "x"}
    assert space.drawn_in({"a": {"kind": "y", "rate": 1}}) == {"a.kind": "y", "a.rate": 1}


REFUSED_PARAMETERS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"p": {"value": [1]}}, r"'p' has the key 'value'.*Did you mean 'values'\?"),
    "neither": ({"p": {"when": {}}}, "'p' needs either 'values' or 'distribution'"),
    "both": ({"p": {"values": [1], "distribution": "uniform"}}, "and not both"),
    "no mapping": ({"p": [1, 2]}, r"'p' must be a mapping.*got \[1, 2\]"),
    "no list": ({"p": {"values": 3}}, "'values' must be a non-empty list; got 3"),
    "empty": ({"p": {"values": []}}, r"'values' must be a non-empty list; got \[\]"),
    "twice": ({"p": {"values": [1, 2, 1.0]}}, r"lists something twice: \[1, 2, 1.0\]"),
    "bounds of values": ({"p": {"values": [1], "min": 0}}, "belong to a distribution"),
    "distribution": ({"p": {"distribution": "normal", "min": 0, "max": 1}}, "must be one of uniform.*got 'normal'"),
    "no bound": ({"p": {"distribution": "uniform", "min": 0}}, "'max' must be a finite number.*got None"),
    "text bound": ({"p": {"distribution": "uniform", "min": "1e-4", "max": 1}}, "write 1.0e-4.*got '1e-4'"),
    "truth bound": ({"p": {"distribution": "uniform", "min": False, "max": 1}}, "finite number.*got False"),
    "infinite": ({"p": {"distribution": "uniform", "min": 0, "max": float("inf")}}, "finite number.*got inf"),
    "order": ({"p": {"distribution": "uniform", "min": 2, "max": 2}}, "'min' must be below 'max'; got 2 and 2"),
    "log of zero": ({"p": {"distribution": "log_uniform_values", "min": 0, "max": 1}}, "must be positive.*got 0"),
    "not whole": ({"p": {"distribution": "int_uniform", "min": 1, "max": 2.5}}, "whole numbers.*got 1 and 2.5"),
    "later": ({"p": {"values": [1], "when": {"q": 1}}, "q": {"values": [1]}}, r"above it \(none\); got 'q'"),
    "itself": ({"p": {"values": [1], "when": {"p": 1}}}, "above it.*got 'p'"),
    "unknown": ({"q": {"values": [1]}, "p": {"values": [1], "when": {"r": 1}}}, r"above it \(q\); got 'r'"),
    "impossible": ({"q": {"values": [1, 2]}, "p": {"values": [1], "when": {"q": 3}}}, "q is never 3"),
    "truth is not one": ({"q": {"values": [True]}, "p": {"values": [1], "when": {"q": 1}}}, "q is never 1"),
    "out of range": (
        {"q": {"distribution": "int_uniform", "min": 1, "max": 3}, "p": {"values": [1], "when": {"q": [1, 4]}}},
        "q is never 4",
    ),
    "no condition": ({"q": {"values": [1]}, "p": {"values": [1], "when": {"q": []}}}, "'when' gives q no value"),
    "no map of conditions": ({"q": {"values": [1]}, "p": {"values": [1], "when": ["q"]}}, "'when' must map"),
    "false for conditions": ({"q": {"values": [1]}, "p": {"values": [1], "when": False}}, "'when' must map.*False"),
}


@pytest.mark.parametrize(("parameters", "message"), REFUSED_PARAMETERS.values(), ids=REFUSED_PARAMETERS.keys())
def test_a_malformed_parameter_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        space_of(parameters)


P: dict[str, Any] = {"p": {"values": [1, 2]}}
REFUSED_SPACES: dict[str, tuple[Any, str]] = {
    "no mapping": ([1], r"must be a mapping.*got \[1\]"),
    "nothing": (None, "must be a mapping.*got None"),
    "unknown key": ({"paramters": P}, r"has the key 'paramters'.*Did you mean 'parameters'\?"),
    "no parameters": ({"question": "?"}, "needs 'parameters'.*got None"),
    "empty parameters": ({"parameters": {}}, r"needs 'parameters'.*got \{\}"),
    "varied and fixed": ({"parameters": P, "fixed": {"p": 1}}, "both varies and fixes p: keep one"),
    "fixed no mapping": ({"parameters": P, "fixed": ["p"]}, r"'fixed' must map.*got \['p'\]"),
    "baselines no list": ({"parameters": P, "baselines": {"p": 1}}, "'baselines' must be a list.*got {'p': 1}"),
    "baseline no mapping": ({"parameters": P, "baselines": [1]}, "must map paths to values; got 1"),
    "baseline twice": ({"parameters": P, "baselines": [{"p": 1}, {"p": 1}]}, "has the baseline {'p': 1} twice"),
    "baseline incomplete": ({"parameters": P, "baselines": [{}]}, "leaves out 'p'"),
    "baseline impossible": ({"parameters": P, "baselines": [{"p": 3}]}, r"p cannot be 3.*\[1, 2\]"),
    "baseline truth": ({"parameters": P, "baselines": [{"p": True}]}, "p cannot be True"),
    "baseline beyond": ({"parameters": P, "baselines": [{"p": 1, "q": 2}]}, "sets q beyond the space"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED_SPACES.values(), ids=REFUSED_SPACES.keys())
def test_a_malformed_space_is_refused(content: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Space.from_dict("mine", content)


def test_a_baseline_must_not_set_what_its_conditions_exclude() -> None:
    baseline = {"model.architecture": "deeplab", "model.aspp": False, "model.size": "small", "optimizer.lr": 1e-3}
    with pytest.raises(SpaceError, match=r"sets model\.size beyond the space"):
        Space.from_dict("mine", CONTENT | {"baselines": [baseline]})


@pytest.mark.parametrize(
    ("path", "fixed", "message"),
    [
        ("model.backbon", {}, r"names 'model.backbon', which no trial has. Did you mean 'model.backbone'\?"),
        ("optimizer.lr", {"training.epoch": 1}, r"names 'training.epoch', .* Did you mean 'training.epochs'\?"),
        ("zzz", {}, "names 'zzz', which no trial has. Known: augmentation.color, .*training.seed"),
        ("loss.terms.dise", {}, r"names 'loss.terms.dise', which no trial has. Did you mean 'loss.terms.dice'\?"),
    ],
)
def test_a_path_that_no_trial_has_is_refused(path: str, fixed: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        space_of({path: {"values": [1]}}, fixed=fixed).check_paths(TrialConfig)


def test_a_group_is_no_path() -> None:
    with pytest.raises(SpaceError, match="names 'model', which no trial has"):
        space_of({"model": {"values": [1]}}).check_paths(TrialConfig)


ARCHITECTURES: dict[str, Any] = {
    "model.architecture": {"values": ["unet", "deeplab"]},
    "model.backbone": {"values": ["resnet18"], "when": {"model.architecture": "deeplab"}},
    "model.aspp": {"values": [True, False], "when": {"model.architecture": "deeplab"}},
    "model.aspp_rates": {"values": [[1], [2]], "when": {"model.aspp": True}},
    "optimizer.lr": {"values": [1e-3]},
}


@pytest.mark.parametrize("name", shipped_spaces())
def test_every_shipped_space_describes_trials_that_can_be(name: str) -> None:
    space = Space.from_dict(name, shipped_spaces()[name])
    space.check_paths(TrialConfig)
    assert space.question
    base = TrialConfig().replace(space.fixed)
    for point in (*(space.enumerate("model.") or ()), *space.baselines):
        base.replace(point)
    drawn = [base.replace(point) for point in draw(space, 50)]
    assert len({repr(trial) for trial in drawn}) >= 3


@pytest.mark.parametrize("name", shipped_spaces())
def test_every_shipped_space_says_what_its_question_compares(name: str) -> None:
    space = Space.from_dict(name, shipped_spaces()[name])
    assert space.question.endswith("?")
    assert space.compare
    if space.search.get("sampler.name") == "grid":
        assert space.search["num_trials"] == space.size()


def test_what_is_compared_may_vary_alone_or_together() -> None:
    space = space_of(ARCHITECTURES, compare=["optimizer.lr", ["model.architecture", "model.backbone"]])
    assert space.compare == (("optimizer.lr",), ("model.architecture", "model.backbone"))


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        (["model.backbon"], r"compares 'model.backbon', which it does not draw. Did you mean 'model.backbone'\?"),
        ([["optimizer.lr", "zzz"]], "compares 'zzz', which it does not draw. Its parameters: model.architecture, "),
        ("optimizer.lr", "'compare' must be a list of parameters, or of lists of them; got 'optimizer.lr'"),
    ],
)
def test_comparing_what_is_not_drawn_is_refused(compare: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        space_of(ARCHITECTURES, compare=compare)


def test_dependents_are_found_along_chains_of_conditions() -> None:
    space = space_of(ARCHITECTURES)
    assert space.dependents(["model.architecture"]) == {"model.backbone", "model.aspp", "model.aspp_rates"}
    assert space.dependents(["model.aspp"]) == {"model.aspp_rates"}
    assert space.dependents(["optimizer.lr"]) == set()


def test_settings_of_the_search_must_be_a_mapping() -> None:
    with pytest.raises(SpaceError, match=r"'search' must map settings of the search to values; got \['grid'\]"):
        space_of(ARCHITECTURES, search=["grid"])


def test_an_omegaconf_file_reads_as_written(write_space: Callable[[str], Any]) -> None:
    space = Space.from_dict("mine", write_space("parameters:\n  optimizer.lr: {values: [1e-3, 0.1]}\n"))
    assert space.parameters[0].values == (1e-3, 0.1)


@pytest.fixture
def write_space(tmp_path: Any) -> Callable[[str], Any]:
    def write(text: str) -> Any:
        (tmp_path / "mine.yaml").write_text(text)
        return OmegaConf.to_container(OmegaConf.load(tmp_path / "mine.yaml"))

    return write
