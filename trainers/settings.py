"""Rules that settings must keep, the errors that say which was broken, and dataclasses as OmegaConf sees them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

_RESOLVER = re.compile(r"\$\{\s*[\w.]+\s*:[^}]*\}?")
"""What OmegaConf would call a function for, such as one that reads the environment."""


class TrialError(ValueError):
    """A mistake of the user's in settings, data or files of a trial; the message is complete."""


class ConfigError(TrialError):
    """A setting that cannot be: the message names the setting, its value and what would be right."""


def schema(cls: type) -> DictConfig:
    """The typed OmegaConf node of a dataclass, open to overrides although the dataclass itself is frozen."""
    node: DictConfig = OmegaConf.structured(cls)
    pending = [node]
    while pending:
        current = pending.pop()
        OmegaConf.set_readonly(current, False)
        pending += [child for child in (current._get_node(key) for key in current) if isinstance(child, DictConfig)]
    return node


def setting_names(node: DictConfig, prefix: str = "") -> list[str]:
    """Dotted names of all settings of a :func:`schema`, groups included."""
    names: list[str] = []
    for key in map(str, node):
        child = node._get_node(key)
        names.append(prefix + key)
        if isinstance(child, DictConfig) and not child._is_none():
            names += setting_names(child, f"{prefix}{key}.")
    return names


def unknown_setting(name: str, known: Collection[str]) -> ConfigError:
    """The error for a setting that is none, with the nearest of those that are."""
    same_leaf = [setting for setting in known if setting.rpartition(".")[2] == name.rpartition(".")[2]]
    near = same_leaf if len(same_leaf) == 1 else difflib.get_close_matches(name, known, n=1)
    return ConfigError(f"There is no setting {name!r}." + (f" Did you mean {near[0]}?" if near else ""))


def read_settings(path: Path) -> DictConfig | ListConfig:
    """The content of a YAML file that may come from others: values, and nothing that would be run to find one.

    Raises:
        ConfigError: it asks for a function of OmegaConf's, with which ``${oc.env:NAME}`` would read a secret.
        OSError, UnicodeDecodeError, yaml.YAMLError: the file cannot be read, or is not YAML.
    """
    called = _RESOLVER.search(path.read_text(encoding="utf-8"))
    if called is not None:
        raise ConfigError(f"{path} must hold plain values; got {called[0]!r}, which would be looked up elsewhere.")
    return OmegaConf.load(path)


def choose(name: str, value: str, choices: Collection[str]) -> None:
    """Raise :class:`ConfigError` unless ``value`` is one of ``choices``, naming the nearest one."""
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{name} must be one of {', '.join(choices)}; got {value!r}.{hint}")


def require(rule: bool, name: str, wanted: str, value: object) -> None:
    """Raise :class:`ConfigError` saying that ``name`` must be ``wanted`` unless ``rule`` holds."""
    if not rule:
        raise ConfigError(f"{name} must be {wanted}; got {value!r}.")
