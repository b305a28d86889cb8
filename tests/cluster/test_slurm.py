"""``cluster/slurm.sbatch`` in a real Slurm: searches on two nodes, their token, and jobs that are cut short."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fault_search import SETTINGS, Place, assert_sound, rows
from ray_nodes import title, wait_until
from slurm_cluster import SlurmCluster, missing, slurm_cluster

from search import columns
from search.run_folder import INTERRUPTED, RunFolder

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

FILE = str(Path(__file__).parents[2] / "cluster" / "slurm.sbatch")
SEARCH = [FILE, "--config-dir", "conf", *SETTINGS, "tracking.mode=off", "scheduler.name=none"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    environment = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with slurm_cluster(tmp_path_factory.mktemp("slurm")) as cluster:
            yield cluster


@pytest.fixture(autouse=True)
def _no_job_is_left(slurm: SlurmCluster) -> Iterator[None]:
    yield
    slurm.clear()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, slurm: SlurmCluster) -> Place:
    return Place.made(tmp_path_factory.mktemp("work"), slurm.environment)


def search_process(name: str) -> psutil.Process | None:
    """The search that a job runs."""
    for process in psutil.process_iter():
        words = title(process)
        if "search.run" in words and f"run={name}" in words and "slurm_script" not in words:
            return process
    return None


def nodes_of_trials(run: RunFolder) -> dict[str, str]:
    """Ray's id of the node that trains each trial at this moment: that of its process's parent."""
    found = {}
    for process in psutil.process_iter():
        words = title(process)
        if words.startswith(f"ray::{run.name}/"):
            try:
                parent = process.parent()
            except psutil.NoSuchProcess:
                continue
            raylet = {} if parent is None else dict(item.partition("=")[::2] for item in title(parent).split())
            if "--node_id" in raylet:
                found[words.split("/")[1]] = raylet["--node_id"]
    return found


def epochs(run: RunFolder) -> dict[tuple[str, int], dict[str, Any]]:
    if not any(run.results.glob("epochs/*.parquet")):
        return {}
    return {(row[columns.TRIAL_ID], row[columns.EPOCH]): row for row in rows(run, "epochs")}


def assert_nothing_left(environment: dict[str, str]) -> None:
    """No process holds the job's token, and its folder is gone."""
    wait_until(lambda: not processes_with(environment["RAY_AUTH_TOKEN"]), "the job's processes end", 60)


def processes_with(token: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_AUTH_TOKEN") == token:
                found.append(title(process))
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def asks(environment: dict[str, str], address: str) -> str:
    """What a program that wants to join the cluster at ``address`` is told."""
    joining = [sys.executable, "-m", "cluster.wait", address, "1", "5"]
    done = subprocess.run(joining, env=environment, capture_output=True, text=True, check=False)
    return "joined" if done.returncode == 0 else done.stderr


def test_a_search_on_two_nodes_keeps_its_token_to_itself(slurm: SlurmCluster, place: Place) -> None:
    job = slurm.submit(place.folder, "--nodes=2", *SEARCH, "num_trials=4", "training.epochs=80")
    beside = slurm.submit(place.folder, "--job-name=wrong", *SEARCH, "num_trials=0")  # on a node that has a job already
    run = place.run(f"search-{job.number}")
    where: dict[str, str] = {}

    def on_both() -> bool:
        where.update(nodes_of_trials(run))
        return len(set(where.values())) == 2

    wait_until(lambda: on_both() or job.ended, "trials run on both nodes")
    assert len(set(where.values())) == 2, job.output
    search = search_process(run.name)
    assert search is not None
    environment = search.environ()
    token, address = environment["RAY_AUTH_TOKEN"], search.cmdline()[-1].partition("=")[2]
    assert not [words for words in map(title, psutil.process_iter()) if token in words]
    assert len(processes_with(token)) > 6  # Ray, the search and its trials have it
    without = {name: value for name, value in environment.items() if not name.startswith("RAY_")}
    without["HOME"] = str(place.folder)
    assert "refuses the search: it wants a token" in asks(without, address)
    assert "this is not its token" in asks(without | {"RAY_AUTH_TOKEN": "f" * 64}, address)
    assert asks(environment, address) == "joined"

    assert job.wait() == ("COMPLETED", "0:0"), job.output
    assert_sound(run, 4)
    assert "2 at a time" in job.output
    assert "error" not in job.output
    assert_nothing_left(environment)
    written = [file for folder in (place.folder, slurm.folder) for file in folder.rglob("*") if file.is_file()]
    assert not [file for file in written if token.encode() in file.read_bytes()]

    assert beside.wait() == ("FAILED", "2:0")
    assert beside.output.splitlines()[-1].startswith("num_trials must be at least 1")
    assert "Traceback" not in beside.output
    assert slurm.idle()


def test_a_search_that_is_cut_short_goes_on_where_it_was(slurm: SlurmCluster, place: Place) -> None:
    job = slurm.submit(place.folder, "--nodes=2", *SEARCH, "num_trials=4", "training.epochs=60")
    run = place.run(f"search-{job.number}")

    def further_than(before: int) -> None:
        wait_until(lambda: len(epochs(run)) > before or job.ended, "the search goes on")
        assert len(epochs(run)) > before, job.output

    further_than(0)
    job.requeue()  # as after the loss of a node, or of priority: all is killed
    killed = epochs(run)
    further_than(len(killed))
    slurm.call("scancel", "--signal=TERM", "--batch", job.number)  # as before the time limit
    assert job.wait() == ("FAILED", "130:0"), job.output
    assert run.read_status() == INTERRUPTED
    assert job.output.splitlines()[-1] == f"Interrupted. Continue with: python -m search.run resume={run.name}"
    interrupted = epochs(run)

    again = slurm.submit(place.folder, "--nodes=1", FILE, f"resume={run.name}")
    assert again.wait() == ("COMPLETED", "0:0"), again.output
    assert_sound(run, 4)
    now = epochs(run)
    assert {key: now[key] for key in killed} == killed
    assert {key: now[key] for key in interrupted} == interrupted


def test_ray_has_the_gpus_and_cores_of_the_allocation(slurm: SlurmCluster, place: Place) -> None:
    few = slurm.submit(place.folder, "--nodes=1", "--gpus-per-node=2", *SEARCH)
    assert few.wait() == ("FAILED", "2:0")
    assert few.output.strip().endswith("--cpus-per-task=N")
    job = slurm.submit(
        place.folder,
        "--nodes=2",
        "--gpus=4",
        "--cpus-per-task=2",
        *SEARCH,
        "dry_run=true",
        "resources.gpus_per_trial=1",
    )
    assert job.wait() == ("COMPLETED", "0:0"), job.output
    assert "1 CPU core and 1 GPU a trial, 4 at a time" in job.output
