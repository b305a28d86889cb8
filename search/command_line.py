"""The way from the command line to dataclasses: Hydra, once, at the door."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from search.config import DATA_DEFAULTS, SearchConfig
from search.errors import errors_in_one_line
from search.run_folder import RunFolder
from search.storage import check_storage
from search.stored_run import find_stored_run
from spaces import shipped_spaces
from trainers.settings import ConfigError, read_settings, schema, setting_names, unknown_setting

HELP = """\
Search architectures and hyperparameters of semantic segmentation; ends in a Pareto front and a report.

  python -m search.run [GROUP=OPTION] [SETTING=VALUE] ...

Groups and their options (--config-dir DIR adds yours: DIR/space/mine.yaml is space=mine)

$APP_CONFIG_GROUPS
Settings people change
  num_trials=20                  configurations to try
  repeats=3                      train each under three seeds: mean and spread, paired comparisons
  run=NAME                       name of the run; default: space and time
  resume=NAME                    continue an interrupted run under its own settings
  resume=NAME num_trials=N       extend a finished run to N trials
  storage=s3://BUCKET/FOLDER     copy the run there while it goes on; keys come from the environment
  resume=NAME storage=URI        continue it on any machine that reaches the storage
  warm_start=NAME[,NAME ...]     let the sampler learn from earlier runs before its first draw
  data.root=DIR                  where the data set lies (every set but scenes)
  data.height=96 data.width=128  size that images are packed and trained at
  training.epochs=50             full budget of a trial
  training.batch_size=16         images per step
  resources.cpus_per_trial=N     default: 1 on a CPU machine, else the GPU's share of the cores
  resources.gpus_per_trial=0.5   several trials per GPU; default: 1 where there is a GPU
  resources.gpus_per_trial=auto  the part of a GPU that the memory of each architecture needs
  resources.workers_per_trial=4  processes that train one trial together, each with what the two above say
  cluster.patience_s=3600        end after so long without room for a trial; default: wait
  constraints.latency_ms=20      never train what is slower (also size_mb, params)
  scheduler.name=asha            or pareto_asha, none; default: front, which stops what would end dominated
  scheduler.grace_epochs=1       epochs that every trial has; of halving also scheduler.eta, scheduler.brackets
  sampler.name=tpe               or nsga2, gp, random, grid; default: ehvi, what should enlarge the front the most
  tracking.mode=offline          W&B: auto, online, offline, off
All settings with their values: python -m search.run --cfg job

Examples
  python -m search.run                                              the built-in data set, minutes on a laptop
  python -m search.run space=backbones data=folder data.root=~/mine num_trials=60 constraints.latency_ms=20
  python -m search.run space=backbones data=camvid data.root=~/camvid dry_run=true
"""


Settings = TypeVar("Settings")
_DIRECTIVE = re.compile(r"^#\s*@package.*|^defaults\s*:", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class RunChoice:
    """The settings of every command that works on a run that there is."""

    run: str | None = None
    """Name of the run, by default the latest."""
    runs: str = "runs"
    """Folder of all runs."""
    storage: str | None = None
    """Storage to bring the run from; none where it lies in ``runs`` already."""

    def __post_init__(self) -> None:
        if self.storage is not None:
            check_storage(self.storage)

    def find(self) -> RunFolder:
        """The run.

        Raises:
            RunError: there is none.
            StorageError: the storage cannot be read.
        """
        return self.find_named(self.run)

    def find_named(self, name: str | None) -> RunFolder:
        """:meth:`find` for the run ``name``."""
        return find_stored_run(Path(self.runs), name, self.storage)


def quiet_hydra(name: str, text: str) -> dict[str, Any]:
    """Hydra's own settings of a command: its help text, and no files or logging of Hydra's."""
    return {
        "job": {"name": name, "chdir": False},
        "run": {"dir": "."},
        "output_subdir": None,
        "help": {"template": text},
    }


QUIET_LOGGING = [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
"""Goes to the end of a command's defaults list."""


def register_command(name: str, settings_class: type, text: str) -> DictConfig:
    """Make the settings of a small command known to Hydra; returns them."""
    settings, store = schema(settings_class), ConfigStore.instance()
    store.store(name=f"{name}_schema", node=settings)
    defaults = [f"{name}_schema", "_self_", *QUIET_LOGGING]
    store.store(name=name, node={"defaults": defaults, "hydra": quiet_hydra(name, text)})
    return settings


def run_command(
    name: str, settings_class: type[Settings], text: str, work: Callable[[Settings], None], interrupted: str
) -> None:
    """A small command from its arguments to its end: ``work`` on its settings; a user's mistake is one line.

    Args:
        name: of the command, ``report`` for ``python -m search.report``.
        settings_class: the dataclass of its settings.
        text: what ``--help`` prints.
        work: does it.
        interrupted: what is left after Ctrl-C, for people.
    """

    def call(node: DictConfig) -> None:
        with errors_in_one_line():
            settings = OmegaConf.to_object(node)
            assert isinstance(settings, settings_class)
            work(settings)

    with errors_in_one_line():
        check_overrides(sys.argv[1:], register_command(name, settings_class, text))
    try:
        hydra.main(version_base="1.3", config_path=None, config_name=name)(call)()
    except KeyboardInterrupt:
        print(f"Interrupted: {interrupted}", file=sys.stderr)
        sys.exit(130)


def quoted_lists(arguments: Sequence[str]) -> list[str]:
    """``key=a,b`` as one text: Hydra takes it for two jobs, and these commands for one that takes both.

    So with the parameters of a URI, which mean something else to Hydra.
    """
    return [_quoted(argument) for argument in arguments]


def _quoted(argument: str) -> str:
    key, equals, value = argument.partition("=")
    plain = equals and set(value) & set(",?") and not argument.startswith("-") and not set(value) & set("'\"[{")
    return f"{key}='{value}'" if plain else argument


def register() -> DictConfig:
    """Make the settings, the data sets and the shipped spaces known to Hydra; returns the settings."""
    store = ConfigStore.instance()
    for name, content in shipped_spaces().items():
        store.store(group="space", name=name, node=content)
    for name, preset in DATA_DEFAULTS.items():
        store.store(group="data", name=name, node={"name": name, **preset})
    for name in ("local", "address"):
        store.store(group="cluster", name=name, node={"name": name})
    settings = schema(SearchConfig)
    store.store(name="search_schema", node=settings)
    groups = [{"data": "scenes"}, {"cluster": "local"}, {"space": "quickstart"}]
    defaults = ["search_schema", *groups, "_self_", *QUIET_LOGGING]
    store.store(name="search", node={"defaults": defaults, "hydra": quiet_hydra("search", HELP)})
    return settings


def check_overrides(arguments: Sequence[str], known: DictConfig, groups: Sequence[str] = ()) -> None:
    """Refuse a misspelt setting with the nearest known one, and a broken file, before Hydra does it in its own way.

    Raises:
        ConfigError: a setting that is none, or a file of ``--config-dir`` that is not YAML.
    """
    _check_config_dir(arguments)
    settings = [*setting_names(known), *groups]
    given = [item for item in arguments if "=" in item and not item.startswith("-")]
    try:
        overrides = OverridesParser.create().parse_overrides(given)
    except OverrideParseException:
        return  # Hydra's own message shows the place of a syntax error.
    for override in overrides:
        key = override.key_or_group
        free = override.is_add() or key.split(".")[0] in ("space", "hydra") or key.startswith("hydra/")
        if not free and key not in settings:
            raise unknown_setting(key, settings)


def _check_config_dir(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    folder = parser.parse_known_args(arguments)[0].config_dir
    for file in [] if folder is None else sorted(folder.rglob("*.yaml")):
        try:
            read_settings(file)
        except (OSError, UnicodeDecodeError, YAMLError) as error:
            raise ConfigError(f"{file} is not YAML: {error}") from error
        # Hydra would put the content elsewhere, even among its own settings, or add other files.
        if file.parent.name == "space" and (found := _DIRECTIVE.search(file.read_text(encoding="utf-8"))):
            raise ConfigError(f"{file} must describe a space and nothing else; got {found[0]!r}.")
