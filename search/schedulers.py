"""The stopping rule that a search's settings name."""

from __future__ import annotations

from search.config import SchedulerConfig
from search.front_stopping import FrontStopping
from search.pareto_asha import ParetoAsha
from search.stopping import Asha, NoStopping, StoppingRule, SuccessiveHalving

HALVING: dict[str, type[SuccessiveHalving]] = {"asha": Asha, "pareto_asha": ParetoAsha}
"""Rules with rungs, by ``scheduler.name``."""


def build_stopping(config: SchedulerConfig, epochs: int) -> StoppingRule:
    """The rule that ``config`` names, for trials of ``epochs``."""
    if config.name == "none":
        return NoStopping()
    if config.name == "front":
        return FrontStopping(config.grace_epochs, epochs)
    return HALVING[config.name](config.eta, config.grace_epochs, epochs, config.brackets)
