"""The settings of a search: from the command line to checked dataclasses, and back from a run's folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize
from omegaconf import OmegaConf

from search.command_line import check_overrides, register
from search.config import (
    DATA_DEFAULTS,
    SamplerConfig,
    SchedulerConfig,
    SearchConfig,
    load_config,
    save_config,
    settle,
    space_of,
)
from spaces import SpaceError, shipped_spaces
from trainers.choices import DATASETS
from trainers.settings import ConfigError

SPACE: dict[str, Any] = {
    "parameters": {
        "model.architecture": {"values": ["unet", "deeplab"]},
        "model.aspp": {"values": [True, False], "when": {"model.architecture": "deeplab"}},
        "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
    },
    "fixed": {"training.epochs": 6, "schedule.name": "poly"},
}


def config_of(space: Any = SPACE, **settings: Any) -> SearchConfig:
    return SearchConfig(space=space, space_name="mine", **settings)


def varied(**parameters: Any) -> dict[str, Any]:
    """A space of these parameters, with ``__`` for the dot in their paths."""
    return {"parameters": {name.replace("__", "."): entry for name, entry in parameters.items()}}


def composed(*overrides: str) -> SearchConfig:
    register()
    with initialize(version_base="1.3", config_path=None):
        config = OmegaConf.to_object(compose("search", ["space_name=given", *overrides]))
    assert isinstance(config, SearchConfig)
    return config


def test_the_command_without_settings_searches_the_default_space() -> None:
    config = composed()
    assert config.space == shipped_spaces()["quickstart"]
    assert (config.data.name, config.cluster.name, config.sampler.name) == ("scenes", "local", "ehvi")
    space_of(config)


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_presets_its_size_and_the_command_line_wins(name: str) -> None:
    config = composed(f"data={name}", "data.root=somewhere", "data.width=320")
    preset = DATA_DEFAULTS[name]
    assert (config.data.name, config.data.height, config.data.width) == (name, preset.get("height", 96), 320)


@pytest.mark.parametrize("space", shipped_spaces())
def test_every_shipped_space_passes_the_checks(space: str) -> None:
    config = composed(f"space={space}")
    assert space_of(config).question == shipped_spaces()[space]["question"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("num_trails=3", "There is no setting 'num_trails'. Did you mean num_trials?"),
        ("aspp=true", "There is no setting 'aspp'. Did you mean model.aspp?"),
        ("trainer.epochs=3", "There is no setting 'trainer.epochs'. Did you mean training.epochs?"),
        ("optimiser.name=adam", "There is no setting 'optimiser.name'. Did you mean optimizer.name?"),
        ("training.epoch=3", "There is no setting 'training.epoch'. Did you mean training.epochs?"),
        ("spce=quickstart", "There is no setting 'spce'. Did you mean space?"),
        ("zzz=1", "There is no setting 'zzz'."),
    ],
)
def test_a_misspelt_setting_is_refused_with_the_nearest(argument: str, message: str) -> None:
    with pytest.raises(ConfigError) as told:
        check_overrides([argument], register(), ("space", "data", "cluster"))
    assert str(told.value) == message


def test_what_is_a_setting_passes() -> None:
    given = ["num_trials=3", "space=quickstart", "data=camvid", "data.root=a=b", "model.aspp_rates=[1,2]", "+new=1"]
    given += ["hydra.run.dir=.", "hydra/job_logging=none", "--config-dir=conf", "--cfg", "job", "run='a b'", "data=["]
    check_overrides(given, register(), ("space", "data", "cluster"))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"num_trials": 0}, "num_trials must be at least 1; got 0"),
    ({"repeats": 0}, "repeats must be at least 1; got 0"),
    ({"seed": -1}, r"seed must be in \[0, 2\^31\); got -1"),
    ({"sampler.name": "tpee"}, r"sampler.name must be one of.*Did you mean 'tpe'\?"),
    ({"sampler.startup_trials": 0}, "sampler.startup_trials must be at least 1; got 0"),
    ({"scheduler.name": "hyperband"}, "scheduler.name must be one of front, asha, pareto_asha, none; got 'hyperband'"),
    ({"scheduler.eta": 1}, "scheduler.eta must be at least 2; got 1"),
    ({"scheduler.grace_epochs": 0}, "scheduler.grace_epochs must be at least 1; got 0"),
    ({"scheduler.brackets": 0}, "scheduler.brackets must be at least 1; got 0"),
    ({"resources.cpus_per_trial": 0}, "resources.cpus_per_trial must be at least 1; got 0"),
    ({"resources.gpus_per_trial": -0.5}, "resources.gpus_per_trial must be 0 to 1"),
    ({"resources.gpus_per_trial": 2}, r"resources.gpus_per_trial must be 0 to 1 \(a worker trains on one GPU\)"),
    ({"resources.gpus_per_trial": "atuo"}, "resources.gpus_per_trial must be 0 to 1 .*, or auto; got 'atuo'"),
    ({"resources.workers_per_trial": 0}, "resources.workers_per_trial must be at least 1"),
    ({"cluster.patience_s": 0}, "cluster.patience_s must be positive"),
    ({"resources.max_concurrent_trials": 0}, "resources.max_concurrent_trials must be at least 1; got 0"),
    ({"constraints.latency_ms": 0}, "constraints.latency_ms must be positive; got 0.0"),
    ({"constraints.params": -1}, "constraints.params must be positive; got -1"),
    ({"latency.device": "tpu"}, "latency.device must be one of auto, cpu, cuda; got 'tpu'"),
    ({"latency.batch": 0}, "latency.batch must be at least 1; got 0"),
    ({"latency.precision": "int8"}, "latency.precision must be one of fp32, bf16; got 'int8'"),
    ({"latency.memory_format": "nhwc"}, "latency.memory_format must be one of auto, contiguous, channels_last; got"),
    ({"tracking.mode": "on"}, "tracking.mode must be one of.*got 'on'"),
    ({"tracking.project": "''"}, "tracking.project must be a name; got ''"),
    ({"cluster": "address"}, "cluster.address must be set exactly when cluster=address; got None"),
    ({"cluster.address": "host:1"}, "cluster.address must be set exactly when cluster=address; got 'host:1'"),
    ({"training.epochs": 0}, "training.epochs must be at least 1; got 0"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=[str(settings) for settings, _ in REFUSED])
def test_a_setting_out_of_range_is_refused_with_the_rule(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(*(f"{name}={value}" for name, value in settings.items()))


def test_the_command_line_beats_what_the_space_fixes() -> None:
    given = dataclasses.replace(config_of(), training=dataclasses.replace(config_of().training, epochs=2))
    settled = settle(given, ["training.epochs", "num_trials"])
    base = settled.base_trial(space_of(settled))
    assert (base.training.epochs, base.schedule.name) == (2, "poly")
    untouched = settle(given, ["num_trials"])
    assert untouched.base_trial(space_of(untouched)).training.epochs == 6
    assert SPACE["fixed"] == {"training.epochs": 6, "schedule.name": "poly"}


def test_a_space_presets_the_search_unless_the_command_line_does() -> None:
    wishes = {"sampler.name": "random", "scheduler.name": "none", "repeats": 3}
    asked = config_of(SPACE | {"search": wishes}, sampler=SamplerConfig(name="gp", startup_trials=4), repeats=2)
    settled = settle(asked, [])
    assert (settled.sampler.name, settled.sampler.startup_trials) == ("random", 4)
    assert (settled.scheduler.name, settled.repeats) == ("none", 3)
    chosen = settle(asked, ["sampler.name", "repeats"])
    assert (chosen.sampler.name, chosen.scheduler.name, chosen.repeats) == ("gp", "none", 2)
    assert settle(asked, ["sampler"]).sampler.name == "gp"


@pytest.mark.parametrize(
    ("wishes", "error", "message"),
    [
        ({"repeat": 3}, SpaceError, r"'search' sets 'repeat', which is no setting of a search. Did you mean 'repeats'"),
        ({"optimizer.lr": 1}, SpaceError, r"'search' sets 'optimizer.lr', .* It may set num_trials, repeats, sampler"),
        ({"repeats": "many"}, SpaceError, "'search' sets repeats to 'many': Value 'many'"),
        ({"repeats": 0}, ConfigError, "repeats must be at least 1; got 0"),
    ],
)
def test_what_a_space_may_not_preset_is_refused(wishes: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        settle(config_of(SPACE | {"search": wishes}), [])


def test_what_the_space_draws_cannot_be_set() -> None:
    with pytest.raises(
        SpaceError, match=r"optimizer.lr is drawn by space 'mine' \(.*0\.01.*--config-dir DIR space=mine"
    ):
        settle(config_of(), ["optimizer.lr"])


def test_paths_of_data_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_of()
    relative = dataclasses.replace(config, data=dataclasses.replace(config.data, root="images", cache="~/cache"))
    data = settle(relative, []).data
    assert (data.root, data.cache) == (str(tmp_path / "images"), str(Path.home() / "cache"))
    assert data.classes is None


BAD_SPACES: dict[str, tuple[Any, str]] = {
    "unknown path": (
        varied(model__backbon={"values": ["resnet18"]}),
        r"'model.backbon'.*Did you mean 'model.backbone'",
    ),
    "not in the schema of a trial": (varied(num_trials={"values": [1]}), "names 'num_trials', which no trial has"),
    "misspelt value": (varied(optimizer__name={"values": ["adam", "sdg"]}), r"optimizer.name .*'sdg'.*mean 'sgd'\?"),
    "value out of range": (
        varied(training__batch_size={"values": [8, 0]}),
        "training.batch_size must be at least 1; got 0",
    ),
    "range out of range": (
        varied(optimizer__momentum={"distribution": "uniform", "min": 0.5, "max": 1.0}),
        r"optimizer.momentum must be in \[0, 1\); got 1.0",
    ),
    "wrong type": (varied(model__base_channels={"values": [8, 8.5]}), "model.base_channels: .*Integer"),
    "mixed types": (varied(model__weights={"values": ["none", 5]}), "values of model.weights mix numbers and text"),
    "fixed out of range": (varied(model__size={"values": ["small"]}) | {"fixed": {"training.epochs": 0}}, "at least 1"),
    "unread": (
        varied(
            model__architecture={"values": ["unet", "deeplab"]}, model__backbone={"values": ["resnet18", "vgg11_bn"]}
        ),
        r"'model.backbone' for model.architecture=unet, which does not read it.*ture: \[fcn, pspnet, deeplab\]",
    ),
    "without effect beside a drawn value": (
        varied(schedule__name={"values": ["constant", "poly"]}, schedule__power={"values": [0.5, 0.9]}),
        r"draws 'schedule.power' for schedule.name=constant, where it has no effect. .* when: {schedule.name: poly}",
    ),
    "without effect beside the fixed value": (
        varied(augmentation__scale={"distribution": "uniform", "min": 0.0, "max": 1.0}),
        r"'augmentation.scale' for augmentation.policy=light, .* Fix augmentation.policy to custom\.",
    ),
    "unread of the base": (varied(model__backbone={"values": ["resnet18", "vgg11_bn"]}), "does not read it"),
    "never valid together": (
        varied(data__height={"values": [32, 64]}, data__crop={"values": [32, 96]}),
        "data.crop must be at most the packed image size 32 x 128.*got 96",
    ),
}


@pytest.mark.parametrize(("space", "message"), BAD_SPACES.values(), ids=BAD_SPACES.keys())
def test_a_space_that_draws_what_cannot_be_is_refused(space: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        space_of(config_of(space))


def test_a_value_that_is_right_beside_some_neighbours_passes() -> None:
    space_of(config_of(varied(data__height={"values": [64, 128]}, data__crop={"values": [None, 64, 128]})))


def test_a_setting_that_has_its_effect_passes() -> None:
    policies = {"values": ["none", "custom"]}
    scale = {"distribution": "uniform", "min": 0.0, "max": 1.0, "when": {"augmentation.policy": "custom"}}
    space_of(config_of(varied(augmentation__policy=policies, augmentation__scale=scale)))
    always = varied(augmentation__scale={"values": [0.1, 0.2]}) | {"fixed": {"augmentation.policy": "custom"}}
    space_of(config_of(always))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"brackets": 5, "epochs": 27},
            "scheduler.brackets must be at most 3 with grace_epochs=1, eta=3 and 27 epochs; got 5.",
        ),
        (
            {"brackets": 2, "grace_epochs": 9, "epochs": 9},
            "scheduler.brackets must be at most 1 with grace_epochs=9, eta=3 and 9 epochs; got 2.",
        ),
        (
            {"name": "front", "brackets": 2, "epochs": 9},
            "scheduler.brackets must be 1 with scheduler.name=front; got 2.",
        ),
        ({"grace_epochs": 10, "epochs": 9}, "scheduler.grace_epochs must be at most the 9 epochs of a trial; got 10."),
    ],
)
def test_rungs_that_trials_are_too_short_for_are_refused(settings: dict[str, Any], message: str) -> None:
    rungs = {"name": "asha"} | {name: value for name, value in settings.items() if name != "epochs"}
    space = varied(model__size={"values": ["small", "medium"]}) | {"fixed": {"training.epochs": settings["epochs"]}}
    with pytest.raises(ConfigError) as told:
        space_of(config_of(space, scheduler=SchedulerConfig(**rungs)))
    assert str(told.value) == message
    space_of(config_of(space, scheduler=SchedulerConfig(**rungs | {"name": "none"})))


@pytest.mark.parametrize(
    "rungs", [{"brackets": 2}, {"brackets": 1, "grace_epochs": 6}, {"eta": 2, "brackets": 3}, {"grace_epochs": 5}]
)
def test_rungs_that_fit_the_epochs_pass(rungs: dict[str, int]) -> None:
    space_of(config_of(scheduler=SchedulerConfig(name="pareto_asha", **rungs)))


def test_a_grid_of_an_endless_space_is_refused_before_anything_runs() -> None:
    with pytest.raises(SpaceError, match=r"sampler\.name=grid needs a finite space"):
        space_of(config_of(sampler=SamplerConfig(name="grid")))


def test_the_settings_of_a_run_come_back(tmp_path: Path) -> None:
    config = dataclasses.replace(composed("constraints.latency_ms=20", "run=a", "seed=3"), space_name="quickstart")
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("content", [None, "a: [", "num_trials: some", "surprise: 1", "- 1"])
def test_a_file_that_holds_no_settings_is_named(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.yaml does not hold the settings of a run"):
        load_config(tmp_path / "config.yaml")
