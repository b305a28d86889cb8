"""What a dry run says of the architectures, and what checks them, before anything is measured."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, cast

import pytest
from rich.table import Table

from cluster.connect import connect
from cluster.nodes import ClusterError
from search import prepare
from search.config import SearchConfig, space_of
from search.prepare import Plan, describe
from search.resources import Share
from spaces import shipped_spaces
from trainers.config import ModelConfig
from trainers.datasets import open_dataset

SIZES: dict[str, Any] = {"values": [8, 16], "when": {"model.architecture": "unet"}}
SMALL: dict[str, Any] = {
    "parameters": {"model.architecture": {"values": ["unet", "fcn"]}, "model.base_channels": SIZES},
}
ENDLESS: dict[str, Any] = {
    "parameters": {"model.base_channels": {"distribution": "int_uniform", "min": 8, "max": 200}},
    "baselines": [{"model.base_channels": 8}],
}


def plan_of(space: dict[str, Any], cache: Path) -> Plan:
    config = SearchConfig(space=space, space_name="mine")
    data = dataclasses.replace(config.data, height=32, width=32, max_images=4, cache=str(cache))
    config = dataclasses.replace(config, data=data)
    checked = space_of(config)
    base = config.base_trial(checked)
    return Plan(config, checked, base, open_dataset(base.data), Share(1, 0, 1), ())


@pytest.mark.parametrize(
    ("space", "title", "rows"),
    [
        (SMALL, "Architectures", 3),
        (ENDLESS, "Architectures of the baselines; the space has more than 64 architectures", 1),
        (shipped_spaces()["losses"], "Architectures", 1),
    ],
)
def test_what_can_be_listed_is_a_table(space: dict[str, Any], title: str, rows: int, tmp_path: Path) -> None:
    table = describe(plan_of(space, tmp_path))
    assert isinstance(table, Table)
    assert str(table.title).startswith(title)
    assert table.row_count == rows


def test_too_many_to_list_are_a_sentence(tmp_path: Path) -> None:
    assert describe(plan_of(shipped_spaces()["full"], tmp_path)) == (
        "The space has more than 64 architectures, each measured when it is first drawn."
    )


class Deadly:
    """Ends the process that it is sent to."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def test_a_process_that_dies_while_it_checks_the_models_is_told_as_such() -> None:
    with connect(None), pytest.raises(ClusterError, match="The process that checked the models died: "):
        prepare._check_models_on_cluster([cast("ModelConfig", Deadly())])
