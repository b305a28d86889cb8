"""What may vary: spaces as YAML files, and the class that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from spaces.parameter import Parameter, SpaceError
from spaces.space import Assignment, Space

__all__ = ["Assignment", "Parameter", "Space", "SpaceError", "shipped_spaces"]


def shipped_spaces() -> dict[str, Any]:
    """Name to content of the YAML files beside this module."""
    files = sorted(Path(__file__).parent.glob("*.yaml"))
    return {file.stem: OmegaConf.to_container(OmegaConf.load(file)) for file in files}
