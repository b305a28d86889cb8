"""The settings of a search: what they are, what a space presets, what a resumed run may change."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from search.cluster_config import ClusterConfig, ResourcesConfig
from search.files import write_text_atomically
from search.run_folder import find_run
from search.space_checks import check_effect, check_reads, check_values, list_grid
from search.stopping import rung_epochs
from search.storage import check_storage
from search.stored_run import find_stored_run, is_stored
from spaces import Space, SpaceError
from trainers.config import DataConfig, TrialConfig
from trainers.settings import ConfigError, choose, read_settings, require, schema, setting_names

SAMPLERS = ("ehvi", "tpe", "nsga2", "gp", "random", "grid")
STOPPED_AS = ("constraint", "as_is", "left_out", "extrapolated")
SCHEDULERS = ("front", "asha", "pareto_asha", "none")
TRACKING_MODES = ("auto", "online", "offline", "off")
SET_BY_SPACE = ("num_trials", "repeats", "sampler", "scheduler")
"""Settings of the search that a space may preset under ``search``, because its question needs them."""
CHANGEABLE = ("num_trials", "cluster", "resources", "tracking", "storage")
"""Settings that may differ when a run goes on; all others are the run's own."""
DATA_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "scenes": {},
    "folder": {"height": 256, "width": 256},
    "camvid": {"height": 180, "width": 240},
    "floodnet": {"height": 192, "width": 256},
    "voc": {"height": 128, "width": 128},
}
"""The options of the group ``data`` and what each presets."""


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Which configuration is tried next."""

    name: str = "ehvi"
    """``ehvi`` (what is expected to enlarge the front the most: :mod:`search.ehvi`), Optuna's ``tpe``, ``nsga2`` or
    ``gp`` (parameters with a condition are drawn at random), ``random`` or ``grid`` (all of a finite space)."""
    startup_trials: int = 10
    """Trials drawn before the model of ``ehvi``, ``tpe`` or ``gp`` is asked: of ``ehvi`` those of all architectures in
    turn, else at random."""
    stopped: str = "constraint"
    """What Optuna's samplers are told of a trial that was stopped early: its values with a broken ``constraint``, so
    that it ranks behind every completed one; its values ``as_is``, as if they were those of the full budget;
    ``extrapolated`` to it; or nothing (``left_out``). ``ehvi`` extrapolates in any case, and knows how far to trust
    it."""

    def __post_init__(self) -> None:
        choose("sampler.name", self.name, SAMPLERS)
        require(self.startup_trials >= 1, "sampler.startup_trials", "at least 1", self.startup_trials)
        choose("sampler.stopped", self.stopped, STOPPED_AS)


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """Which trials are stopped early."""

    name: str = "front"
    """``front`` (what would end dominated: :mod:`search.front_stopping`), ``asha`` (asynchronous successive halving on
    mIoU), ``pareto_asha`` (halving among trials of like latency, over all objectives) or ``none``."""
    eta: int = 3
    """Of halving: the best 1/eta of those that reached a rung go on."""
    grace_epochs: int = 1
    """Epochs that every trial has; of halving the first rung, and the next ones lie at eta times the one before."""
    brackets: int = 1
    """Of halving: groups of trials that are judged apart; each begins one rung later than the one before, and is
    smaller, as in Hyperband."""

    def __post_init__(self) -> None:
        choose("scheduler.name", self.name, SCHEDULERS)
        require(self.eta >= 2, "scheduler.eta", "at least 2", self.eta)
        require(self.grace_epochs >= 1, "scheduler.grace_epochs", "at least 1", self.grace_epochs)
        require(self.brackets >= 1, "scheduler.brackets", "at least 1", self.brackets)

    def check_rungs(self, epochs: int) -> None:
        """Refuse what trials of ``epochs`` have too few epochs for.

        Raises:
            ConfigError: the first rung is beyond the full budget, a bracket would have no rung, or the rule has none.
        """
        if self.name == "none":
            return
        grace = self.grace_epochs
        require(grace <= epochs, "scheduler.grace_epochs", f"at most the {epochs} epochs of a trial", grace)
        if self.name == "front":
            require(self.brackets == 1, "scheduler.brackets", "1 with scheduler.name=front", self.brackets)
            return
        most = max(1, len(rung_epochs(self.eta, grace, epochs)))
        possible = f"at most {most} with grace_epochs={grace}, eta={self.eta} and {epochs} epochs"
        require(self.brackets <= most, "scheduler.brackets", possible, self.brackets)


@dataclass(frozen=True, kw_only=True)
class ConstraintsConfig:
    """Hard limits: an architecture beyond one is never trained."""

    latency_ms: float | None = None
    """Largest median latency on the target device."""
    size_mb: float | None = None
    """Largest size of the weights in 10^6 bytes."""
    params: int | None = None
    """Largest number of trainable parameters."""

    def __post_init__(self) -> None:
        for name, limit in self.limits().items():
            require(limit > 0, f"constraints.{name}", "positive", limit)

    def limits(self) -> dict[str, float]:
        """Column name to limit, for the limits that are set."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def excess(self, row: Mapping[str, Any]) -> dict[str, float]:
        """How far what a row costs is beyond each limit that it breaks, relative to the limit."""
        over = {name: row[name] / limit - 1.0 for name, limit in self.limits().items()}
        return {name: value for name, value in over.items() if value > 0}


@dataclass(frozen=True, kw_only=True)
class LatencyConfig:
    """How latency is measured: as the model will be served."""

    device: str = "auto"
    """``cpu``, ``cuda``, or ``auto``: where the trials train, and where that is a GPU also on the CPU beside it."""
    batch: int = 1
    """Images per forward pass."""
    precision: str = "fp32"
    """``fp32`` or ``bf16``."""
    memory_format: str = "auto"
    """``contiguous``, ``channels_last``, or ``auto``: channels last with bf16, contiguous with fp32."""
    compile: bool = False
    """Whether ``torch.compile`` makes the model that is measured; the time of the compilation is not counted."""

    def __post_init__(self) -> None:
        choose("latency.device", self.device, ("auto", "cpu", "cuda"))
        require(self.batch >= 1, "latency.batch", "at least 1", self.batch)
        choose("latency.precision", self.precision, ("fp32", "bf16"))
        choose("latency.memory_format", self.memory_format, ("auto", "contiguous", "channels_last"))


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Weights & Biases."""

    mode: str = "auto"
    """``online``, ``offline``, ``off``, or ``auto``: online when logged in, else offline."""
    project: str = "segmentation-search"
    """W&B project."""
    entity: str | None = None
    """W&B user or team; none is the account's default."""
    drain_s: float = 60.0
    """Longest wait for W&B at the end of a search."""

    def __post_init__(self) -> None:
        choose("tracking.mode", self.mode, TRACKING_MODES)
        require(bool(self.project), "tracking.project", "a name", self.project)
        require(0 <= self.drain_s < math.inf, "tracking.drain_s", "at least 0", self.drain_s)


@dataclass(frozen=True, kw_only=True)
class SearchConfig(TrialConfig):
    """All settings of a search; those of :class:`TrialConfig` are what trials have before the space varies them."""

    space: Any = None
    """Content of the chosen space file."""
    space_name: str = "${hydra:runtime.choices.space}"
    """Name of the chosen space file."""
    num_trials: int = 20
    """Configurations to try; infeasible ones are not counted, since they cost nothing."""
    repeats: int = 1
    """Runs of a configuration under different seeds, the first included. Repeats follow only where the first run
    completes, and are not stopped early: that would keep the lucky ones."""
    seed: int = 0
    """Seed of the sampler."""
    runs: str = "runs"
    """Folder of all runs."""
    storage: str | None = None
    """Where the run is copied to while it goes on, below its name: ``s3://<bucket>/<folder>``, or whatever else pyarrow
    opens by URI or absolute path; none keeps it in ``runs`` alone. It holds no secret: keys come from the
    environment."""
    run: str | None = None
    """Name of the run, by default space and time."""
    resume: str | None = None
    """Name of a run to continue under its own settings; one that finished is extended by a larger ``num_trials``."""
    warm_start: str | None = None
    """Names of earlier runs, with commas between them, from whose trials the sampler learns before its first draw
    (:mod:`search.warm_start`); they are no trials of this run."""
    dry_run: bool = False
    """Print what would run, and stop."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    constraints: ConstraintsConfig = field(default_factory=ConstraintsConfig)
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_trials >= 1, "num_trials", "at least 1", self.num_trials)
        require(self.repeats >= 1, "repeats", "at least 1", self.repeats)
        require(0 <= self.seed < 2**31, "seed", "in [0, 2^31)", self.seed)
        if self.storage is not None:
            check_storage(self.storage)

    @property
    def earlier_runs(self) -> list[str]:
        """The names in ``warm_start``."""
        return [] if self.warm_start is None else self.warm_start.split(",")

    def base_trial(self, space: Space) -> TrialConfig:
        """What every trial of the search has in common: these settings under the space's fixed values."""
        names = [item.name for item in dataclasses.fields(TrialConfig)]
        return TrialConfig(**{name: getattr(self, name) for name in names}).replace(space.fixed)


def space_of(config: SearchConfig) -> Space:
    """The space of a search, checked against what a trial has.

    Raises:
        SpaceError: the space is malformed, or it names or draws something without effect.
        ConfigError: the stopping rule does not fit the epochs of a trial.
    """
    space = Space.from_dict(config.space_name, config.space)
    space.check_paths(TrialConfig)
    try:
        base = config.base_trial(space)
        for parameter in space.parameters:
            check_values(space, parameter, base)
            check_effect(space, parameter, base)
        for architecture in space.enumerate("model.") or []:
            check_reads(space, architecture, base)
    except ConfigError as error:
        raise SpaceError(f"Space {space.name!r}: {error}") from error
    config.scheduler.check_rungs(base.training.epochs)
    if config.sampler.name == "grid":
        list_grid(space)
    return space


def settle(config: SearchConfig, given: Collection[str]) -> SearchConfig:
    """Take over what the space presets unless the command line sets it, and give paths their absolute form.

    Args:
        config: the composed settings.
        given: names of the settings given on the command line.

    Raises:
        SpaceError: a setting was given that the space draws, or the space presets what it may not.
    """
    space = Space.from_dict(config.space_name, config.space)
    for path in given:
        if path in space.paths:
            entry = config.space["parameters"][path]
            raise SpaceError(
                f"{path} is drawn by space {space.name!r} ({entry}), so it cannot be set too. To narrow it, copy the "
                f"space to DIR/space/mine.yaml, change it there, and run with --config-dir DIR space=mine."
            )
    fixed = {path: value for path, value in space.fixed.items() if path not in given}
    runs = str(Path(config.runs).expanduser().absolute())
    space_content = dict(config.space) | {"fixed": fixed}
    config = _preset(config, space, given)
    return dataclasses.replace(config, space=space_content, data=_absolute(config.data), runs=runs)


def _preset(config: SearchConfig, space: Space, given: Collection[str]) -> SearchConfig:
    """``config`` with the settings of the search that the space wishes and ``given`` leaves open."""
    node = schema(SearchConfig)
    known = [name for name in setting_names(node) if name.split(".")[0] in SET_BY_SPACE]
    node = DictConfig(OmegaConf.merge(node, dataclasses.asdict(config)))
    for path, value in space.search.items():
        if path not in known:
            near = difflib.get_close_matches(path, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" It may set {', '.join(known)}."
            raise SpaceError(f"Space {space.name!r}: 'search' sets {path!r}, which is no setting of a search.{hint}")
        if not any(path == name or path.startswith(f"{name}.") for name in given):
            try:
                OmegaConf.update(node, path, value)
            except OmegaConfBaseException as error:
                what = f"{path} to {value!r}: {str(error).splitlines()[0]}"
                raise SpaceError(f"Space {space.name!r}: 'search' sets {what}") from error
    preset = OmegaConf.to_object(node)
    assert isinstance(preset, SearchConfig)
    return preset


def continued(config: SearchConfig, given: Collection[str]) -> SearchConfig:
    """The settings of the run that ``config.resume`` names, with what may change taken from ``config``.

    Args:
        config: the composed settings.
        given: names of the settings given on the command line.

    Raises:
        RunError: there is no such run.
        ConfigError: a setting was given that is the run's own.
    """
    assert config.resume is not None
    strange = [name for name in given if name.split(".")[0] not in ("resume", "runs", *CHANGEABLE)]
    if strange:
        raise ConfigError(
            f"resume continues a run under its own settings; {', '.join(strange)} cannot be given. "
            f"Only {', '.join(CHANGEABLE)} may change."
        )
    runs = Path(config.runs).expanduser().absolute()
    own = _own_settings(runs, config, given)
    changes: dict[str, Any] = {name: getattr(config, name) for name in CHANGEABLE if _named(name, given)}
    return dataclasses.replace(own, runs=str(runs), **changes)


def _own_settings(runs: Path, config: SearchConfig, given: Collection[str]) -> SearchConfig:
    """Those of the run that ``config.resume`` names, once its folder has what its storage has."""
    name, storage = config.resume, config.storage
    if not _named("storage", given):
        storage = load_config(find_run(runs, name).config).storage
    own = load_config(find_stored_run(runs, name, storage).config)
    if own.storage is not None and not (storage and is_stored(storage, str(name))):
        raise ConfigError(
            f"storage must be {own.storage}, where run {name!r} has its checkpoints, or a place that all of it was "
            f"copied to; got {storage}."
        )
    return own


def _named(name: str, given: Collection[str]) -> bool:
    return any(setting.split(".")[0] == name for setting in given)


def _absolute(data: DataConfig) -> DataConfig:
    """Trials run in other working directories."""
    paths = {name: getattr(data, name) for name in ("root", "classes", "cache")}
    known: dict[str, Any] = {
        name: str(Path(path).expanduser().absolute()) for name, path in paths.items() if path is not None
    }
    return dataclasses.replace(data, **known)


def load_config(path: Path) -> SearchConfig:
    """The settings a run was started with.

    Raises:
        ConfigError: the file is absent, or holds something else.
    """
    try:
        config = OmegaConf.to_object(OmegaConf.merge(schema(SearchConfig), read_settings(path)))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} does not hold the settings of a run: {error}") from error
    assert isinstance(config, SearchConfig)
    return config


def save_config(config: SearchConfig, path: Path) -> None:
    """Write what :func:`load_config` reads: whole or not at all, as a run without its settings cannot be continued."""
    write_text_atomically(path, OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config))))
