"""The settings that say where the trials run, and what each may use there."""

from __future__ import annotations

from dataclasses import dataclass

from trainers.settings import choose, require

AUTO = "auto"
"""Of ``resources.gpus_per_trial``: from the memory that the architecture was measured to need."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where the trials run."""

    name: str = "local"
    """``local`` (this machine) or ``address`` (a running Ray cluster)."""
    address: str | None = None
    """Of ``address``: ``auto`` or ``<host>:<port>``."""
    patience_s: float | None = None
    """How long the search waits while no trial runs and no node has room for the next one; then it ends as if it were
    interrupted. None waits for ever."""

    def __post_init__(self) -> None:
        choose("cluster.name", self.name, ("local", "address"))
        given = self.address is not None
        require(given == (self.name == "address"), "cluster.address", "set exactly when cluster=address", self.address)
        require(self.patience_s is None or self.patience_s > 0, "cluster.patience_s", "positive", self.patience_s)


@dataclass(frozen=True, kw_only=True)
class ResourcesConfig:
    """What one trial may use; unset values are found from the machine."""

    workers_per_trial: int = 1
    """Data-parallel processes that train one trial together, on one node where they fit, else across several. Each
    has the cores and the GPU of the two settings below."""
    cpus_per_trial: int | None = None
    """CPU cores of each worker of a trial, also its number of threads."""
    gpus_per_trial: int | float | str | None = None
    """GPUs of each worker of a trial; below 1 several trials share one. ``auto``: the part that its architecture
    needs, by the memory of a training step measured before the search; none where there is no GPU, and a whole one
    for each of several workers."""
    max_concurrent_trials: int | None = None
    """At most this many trials at a time; none lets the cluster decide."""

    def __post_init__(self) -> None:
        require(self.workers_per_trial >= 1, "resources.workers_per_trial", "at least 1", self.workers_per_trial)
        cpus, gpus, trials = self.cpus_per_trial, self.gpus_per_trial, self.max_concurrent_trials
        require(cpus is None or cpus >= 1, "resources.cpus_per_trial", "at least 1", cpus)
        known = gpus in (None, AUTO) or (not isinstance(gpus, str) and 0 <= gpus <= 1)
        require(known, "resources.gpus_per_trial", "0 to 1 (a worker trains on one GPU), or auto", gpus)
        require(trials is None or trials >= 1, "resources.max_concurrent_trials", "at least 1", trials)
