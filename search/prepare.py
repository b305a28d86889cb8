"""From settings to a search that can run: whatever can be checked without training is checked here, first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import torch
from ray.exceptions import RayError, RayTaskError
from rich.table import Table

from cluster.nodes import ClusterError, Node
from cluster.tasks import result_of
from search import columns
from search.architectures import (
    ArchitectureTable,
    Measurement,
    architecture_key,
    describe_architecture,
    measured_devices,
)
from search.capacity import Patience
from search.config import ConstraintsConfig, SearchConfig, save_config
from search.copying import Copier
from search.engine import Search
from search.ledger import Ledger, Observer
from search.reporting.record import Record
from search.resources import Share, Sharing, fits, share_of
from search.results import Table as ResultTable
from search.run_folder import RunFolder
from search.sampler import Sampler
from search.schedulers import build_stopping
from search.warm_start import Here, WarmStart, choose_trials
from search.workers import check_together
from spaces import Parameter, Space
from trainers.config import ModelConfig, TrialConfig
from trainers.datasets import SegmentationData, open_dataset
from trainers.datasets.samples import count_classes
from trainers.evaluation import constant_prediction_metrics
from trainers.loop import untrained_metrics
from trainers.models import check_model
from trainers.profiling import count_architecture, cpu_threads, device_name
from trainers.settings import ConfigError

PROFILED_AHEAD = 64
"""Spaces with at most so many architectures are profiled whole before the search, others as they are drawn."""


@dataclass(frozen=True)
class Plan:
    """A search that passed all checks; nothing of it is on disk yet but the packed data."""

    config: SearchConfig
    space: Space
    base: TrialConfig
    data: SegmentationData
    share: Share
    nodes: tuple[Node, ...]

    @property
    def node_cpus(self) -> int:
        """Cores of the largest node that latency can be measured on: the threads that it is measured with."""
        wanted = 1 if self.share.gpus and self.config.latency.device != "cpu" else 0
        return max((node.cpus for node in self.nodes if node.gpus >= wanted), default=0) or self.share.cpus

    @property
    def sharing(self) -> Sharing:
        """What each trial gets."""
        return Sharing(self.share, self.config.resources, self.nodes)

    @property
    def architectures(self) -> list[TrialConfig]:
        """One trial of each architecture to profile ahead; where they are too many, of the baselines alone."""
        listed = self.space.enumerate("model.", PROFILED_AHEAD) or self.space.baselines
        models = ({path: value for path, value in point.items() if path.startswith("model.")} for point in listed)
        return [self.base.replace(model) for model in models]


def plan_search(
    config: SearchConfig, space: Space, base: TrialConfig, data: SegmentationData, nodes: tuple[Node, ...]
) -> Plan:
    """Check everything that can be checked without training.

    Raises:
        SpaceError, ConfigError: what is wrong and what would be right.
        ClusterError: the process that checked the models died.
    """
    growing = config.cluster.address is not None
    share = share_of(nodes, config.resources, base.training.device, growing=growing)
    check_together(space, base, share)
    plan = Plan(config, space, base, data, share, nodes)
    models = [trial.model for trial in plan.architectures or [base]]
    if config.dry_run:
        _check_models(models)  # Here, where their parameters are counted next.
    else:
        _check_models_on_cluster(models)
    return plan


def _check_models_on_cluster(models: Sequence[ModelConfig]) -> None:
    """Check them where trials run, in a process that the next tasks use: it has imported their libraries then."""
    task = ray.remote(_check_models).options(num_cpus=0)  # A cluster that is busy, or has no core yet, can do that.
    try:
        result_of(task.remote(models), ConfigError)
    except RayTaskError:
        raise
    except RayError as error:
        raise ClusterError(f"The process that checked the models died: {str(error).splitlines()[-1]}") from error


def _check_models(models: Sequence[ModelConfig]) -> None:
    for model in models:
        check_model(model)


def plan_warm_start(plan: Plan, earlier: Sequence[Record]) -> WarmStart:
    """What earlier runs have to tell the sampler; nothing where there are none.

    Raises:
        RunError: a run that cannot be compared, or none of them has something to tell.
    """
    if not earlier:
        return WarmStart()
    config = plan.config
    data = describe_data(plan) | {"references": constant_references(plan)}
    here = Here(plan.space, plan.base, config.constraints, data, latency_conditions(plan))
    return choose_trials(earlier, here, grid=config.sampler.name == "grid")


def start_run(plan: Plan, run: RunFolder, warm_start: WarmStart) -> None:
    """Create the run's folder, with what a report needs to know besides results, and what the sampler knows already."""
    for folder in (run.path, run.trials, run.results):
        folder.mkdir(parents=True, exist_ok=True)
    about = {
        "question": plan.space.question,
        "notes": list(plan.data.notes),
        "parameters": list(plan.space.paths),
        "references": references(plan),
        "constraints": plan.config.constraints.limits(),
    }
    run.write_data(describe_data(plan) | about)
    if warm_start.trials:
        warm_start.save(run.warm_start)
    save_config(plan.config, run.config)  # Last: with it the run can be resumed.


def describe_data(plan: Plan) -> dict[str, Any]:
    """What the data set is, as ``data.json`` has it."""
    data = plan.data
    return {
        "name": data.name,
        "classes": [{"name": item.name, "color": list(item.color)} for item in data.classes],
        "num_train": len(data.train),
        "num_val": len(data.val),
        "height": plan.base.data.height,
        "width": plan.base.data.width,
    }


def build_search(
    plan: Plan,
    run: RunFolder,
    observers: Sequence[Observer],
    say: Callable[[str], None],
    patience: Patience,
    *,
    copier: Copier | None = None,
) -> Search:
    """Open the run's record, profile the architectures, and take up what an earlier process left.

    Where the run has a storage, ``copier`` brings there what becomes durable.

    Raises:
        ConfigError: no architecture keeps the constraints; the message names the closest.
    """
    config, tables = plan.config, _open_tables(plan, run)
    architectures = ArchitectureTable(
        table=tables["architectures"],
        latency=config.latency,
        constraints=config.constraints,
        share=plan.share,
        node_cpus=plan.node_cpus,
        num_classes=plan.data.num_classes,
        patience=patience,
    )
    architectures.measure(plan.architectures, say, claim=True)
    _require_feasible(architectures, config.constraints, plan)
    return Search(
        run=run,
        base=plan.base,
        num_trials=config.num_trials,
        repeats=config.repeats,
        sampler=Sampler(
            run.storage,
            plan.space,
            config.sampler,
            config.seed,
            epochs=plan.base.training.epochs,
            costs=architectures.costs(plan.base),
            earlier=WarmStart.load(run.warm_start).trials,
        ),
        stopping=build_stopping(config.scheduler, plan.base.training.epochs),
        architectures=architectures,
        ledger=Ledger(tables["trials"], tables["epochs"], observers if copier is None else [*observers, copier.outbox]),
        trials=tables["trials"],
        copier=copier,
    )


def _open_tables(plan: Plan, run: RunFolder) -> dict[str, ResultTable]:
    """The tables that a search writes, by name."""
    classes = [item.name for item in plan.data.classes]
    parameters = {parameter.path: column_type(parameter) for parameter in plan.space.parameters}
    schemas = {
        "trials": columns.trials_schema(parameters, classes),
        "epochs": columns.epochs_schema(classes),
        "architectures": columns.architectures_schema(),
    }
    return {name: ResultTable(run.results / name, schema) for name, schema in schemas.items()}


def references(plan: Plan) -> list[dict[str, Any]]:
    """What models that learned nothing reach on the validation set, as ``label`` and ``miou``."""
    trial = (plan.architectures or [plan.base])[0]
    place = {"num_cpus": plan.share.cpus, "num_gpus": plan.share.gpus}
    if not fits(plan.nodes, {plan.share: 1}):  # Nodes for trials are still to come; this one needs no such node.
        place, trial = {"num_cpus": 0}, trial.replace({"training.device": "cpu"})
    task = ray.remote(_untrained_miou).options(**place)
    untrained = {"label": "untrained model", "miou": ray.get(task.remote(trial, plan.share.cpus))}
    return [*constant_references(plan), untrained]


def constant_references(plan: Plan) -> list[dict[str, Any]]:
    """Those of :func:`references` that only the validation masks decide."""
    classes = plan.data.classes
    pixels = count_classes(plan.data.val.masks)[: len(classes)]
    commonest = int(pixels.argmax())
    return [
        {"label": f"{classes[index].name} everywhere", "miou": constant_prediction_metrics(pixels, index).miou}
        for index in dict.fromkeys((0, commonest))
    ]


def latency_conditions(plan: Plan) -> dict[str, Any]:
    """Columns of the table ``architectures`` that are the same for all trials: how their latency is measured."""
    latency = plan.config.latency
    work = Measurement(plan.base, plan.data.num_classes, latency, plan.node_cpus, plan.share.cpus)
    gpus = 1 if plan.share.gpus and latency.device != "cpu" else 0
    serving = work.serving
    return {
        columns.DEVICE_NAME: ray.get(ray.remote(_device_name).options(num_cpus=1, num_gpus=gpus).remote(work)),
        columns.BATCH: serving.batch,
        columns.PRECISION: serving.precision,
        columns.MEMORY_FORMAT: serving.layout(),
        columns.COMPILED: serving.compiled,
    }


def _device_name(work: Measurement) -> str:
    with cpu_threads(work.node_threads):
        return device_name(measured_devices(work)[0])


def _untrained_miou(trial: TrialConfig, threads: int) -> float:
    torch.set_num_threads(threads)
    exact = trial.replace({"training.precision": "fp32"})
    return untrained_metrics(exact, open_dataset(trial.data)).miou


def column_type(parameter: Parameter) -> pa.DataType:
    """The Parquet type that holds any value of the parameter; lists are stored as JSON."""
    if parameter.distribution is not None:
        return pa.int64() if parameter.distribution == "int_uniform" else pa.float64()
    kind: pa.DataType = pa.array([columns.cell(value) for value in parameter.values]).type
    return kind


def _require_feasible(architectures: ArchitectureTable, constraints: ConstraintsConfig, plan: Plan) -> None:
    listed = plan.space.enumerate("model.", PROFILED_AHEAD) is not None
    if not listed or any(architectures.reason(row) is None for row in architectures.rows):
        return
    limits = ", ".join(f"{name}={limit:g}" for name, limit in constraints.limits().items())
    raise ConfigError(
        f"No architecture of space {plan.space.name!r} keeps constraints {limits}. The closest is "
        f"{architectures.closest()}."
    )


def describe(plan: Plan) -> Table | str:
    """The plan's architectures with what can be counted without running them; a sentence where none can be listed."""
    many = f"more than {PROFILED_AHEAD} architectures, each measured when it is first drawn"
    if not plan.architectures:
        return f"The space has {many}."
    listed = plan.space.enumerate("model.", PROFILED_AHEAD) is not None
    title = "Architectures" if listed else f"Architectures of the baselines; the space has {many}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("architecture")
    for name in ("parameters", "size_mb", "million MACs"):
        table.add_column(name, justify="right")
    for trial in plan.architectures:
        model, size = trial.model, trial.data
        params, size_mb, macs = count_architecture(model, plan.data.num_classes, size.height, size.width)
        table.add_row(
            describe_architecture(architecture_key(trial)), f"{params:,}", f"{size_mb:.2f}", f"{macs / 1e6:,.0f}"
        )
    return table
