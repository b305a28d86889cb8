"""The run's sweep on W&B: created once, found again by whoever mirrors the run next, told how the search goes."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import secrets
from collections.abc import Mapping
from typing import Any

import click
import wandb
from wandb.cli.cli import cli

from search import columns
from search.config import TrackingConfig
from search.run_folder import FINISHED, INTERRUPTED, RUNNING, RunFolder
from search.tracking.client import API_TIMEOUT_S
from search.tracking.place import Place, TrackingError, remember, remembered_place
from spaces import Space

_STATES = {RUNNING: "RUNNING", INTERRUPTED: "PAUSED", FINISHED: "FINISHED"}
"""What a sweep is called while the search is so."""
_OPTIONS = {RUNNING: "--resume", INTERRUPTED: "--pause", FINISHED: "--stop"}


def find_place(run: RunFolder, tracking: TrackingConfig) -> Place:
    """The remembered place if it is the one that is asked for now; else a new one, remembered."""
    host = wandb.setup(wandb.Settings(silent=True)).settings.base_url
    place = remembered_place(run)
    wanted = (host, tracking.entity, tracking.project)
    if place is None or (place.host, place.entity, place.project) != wanted:
        place = remember(run, Place(*wanted, key=secrets.token_hex(4)))
    return place


def open_sweep(run: RunFolder, place: Place, space: Space) -> Place:
    """The place with its sweep, created unless it exists, and running."""
    api = wandb.Api(timeout=API_TIMEOUT_S)
    path = place.path or _lost_sweep(api, place)
    if path is None:
        config, there = sweep_config(run, place, space), _synced_by_hand(run, place)
        with contextlib.redirect_stdout(io.StringIO()):  # It prints what it returns.
            created = wandb.sweep(config, entity=place.entity, project=place.project, prior_runs=there)
        path = f"{place.entity or api.default_entity}/{place.project}/{created}"
    sweep = api.sweep(path)  # type: ignore[no-untyped-call]
    with contextlib.suppress(click.ClickException):  # It is no less a sweep where W&B would not call it running.
        _tell_state(path, sweep.state, RUNNING)
    return remember(run, dataclasses.replace(place, path=path, url=sweep.url))


def close_sweep(place: Place, status: str) -> None:
    """Tell the sweep that the search is ``finished`` or ``interrupted``.

    Raises:
        TrackingError: W&B would not have it.
    """
    assert place.path is not None
    sweep = wandb.Api(timeout=API_TIMEOUT_S).sweep(place.path)  # type: ignore[no-untyped-call]
    try:
        _tell_state(place.path, sweep.state, status)
    except click.ClickException as error:
        state = _STATES[status]
        raise TrackingError(f"All is sent, but W&B would not call the sweep {state}: {error.message}") from error


def sweep_config(run: RunFolder, place: Place, space: Space) -> dict[str, Any]:
    """The sweep as W&B keeps it; its method and controller leave nothing to do for an agent that is started on it."""
    return {
        "name": run.name,
        "description": f"{space.question or space.name} (search {place.key})",
        "method": "custom",
        "controller": {"type": "local"},
        "metric": {"name": columns.MIOU, "goal": "maximize"},
        "parameters": space.sweep_parameters(),
    }


def _lost_sweep(api: wandb.Api, place: Place) -> str | None:
    """The sweep that was created just before a kill, so that its id was not written down."""
    entity = place.entity or api.default_entity
    ours = f"(search {place.key})"
    try:
        sweeps = list(api.project(place.project, entity).sweeps())
    except (ValueError, wandb.errors.CommError):
        return None  # There is no such project yet.
    return next((f"{entity}/{place.project}/{item.id}" for item in sweeps if ours in _description(item.config)), None)


def _synced_by_hand(run: RunFolder, place: Place) -> list[str]:
    """Ids that W&B knows of already if somebody uploaded the offline runs with its own command, without a sweep."""
    return [file.stem.removeprefix("run-") for file in run.wandb.glob(f"offline-run-*/run-{place.key}-t*.wandb")]


def _description(config: Mapping[str, Any]) -> str:
    return str(config.get("description", ""))


def _tell_state(path: str, state: str, status: str) -> None:
    if state.upper() != _STATES[status]:
        cli.main(["sweep", _OPTIONS[status], path], standalone_mode=False)
