"""The loopback W&B server, proven with the real client: what is sent arrives, and faults are what they say."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from click.testing import CliRunner
from wandb.cli.cli import cli
from wandb.errors import AuthenticationError, CommError
from wandb.sdk.lib.run_stopping import RunStopChecker
from wandb.sdk.lib.service.service_connection import WandbApiFailedError
from wandb_server import Fault, WandbServer

# wandb.sweep warns of a setting that it reads itself.
pytestmark = pytest.mark.filterwarnings("ignore:Read the `app_url` setting:DeprecationWarning")

SWEEP = {
    "name": "backbones",
    "method": "custom",
    "controller": {"type": "local"},
    "metric": {"name": "mIoU", "goal": "maximize"},
    "parameters": {"rate": {"min": 0.001, "max": 0.1}},
}
LEAN: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "x_disable_stats": True,
    "x_disable_meta": True,
    "disable_git": True,
    "disable_code": True,
    "x_save_requirements": False,
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server that the client of this process talks to, with all of the client's folders in tmp_path."""
    with WandbServer() as server:
        folders = {f"WANDB_{name}_DIR": str(tmp_path / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        # The client itself writes the project and entity into the environment: here they are restored.
        own = {"WANDB_PROJECT": "streets", "WANDB_ENTITY": "tester", "WANDB_SILENT": "true"}
        here = {"WANDB_DIR": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
        for name, value in {**server.environment(), **folders, **own, **here}.items():
            monkeypatch.setenv(name, value)
        yield server
        server.revive()
        server.fault = None
        wandb.teardown()


def start(run_id: str, settings: dict[str, Any] | None = None, **more: Any) -> Any:
    """A run as a tracker starts it, except for what is given."""
    own = wandb.Settings(**{**LEAN, **(settings or {})})
    return wandb.init(id=run_id, resume="allow", reinit="create_new", settings=own, **more)


def log_epochs(run: Any, first: int, last: int) -> None:
    for epoch in range(first, last + 1):
        run.log({"epoch": epoch, "mIoU": epoch / 10})


def epochs(server: WandbServer, run_id: str) -> list[int]:
    return [row["epoch"] for row in server.runs[run_id].history]


def sweep_of_three(server: WandbServer) -> str:
    """Runs ``t1`` to ``t3`` of so many epochs, the last failed; returns the sweep's id."""
    sweep_id: str = wandb.sweep(SWEEP)
    for number in (1, 2, 3):
        config = {"rate": number / 100, "model": {"family": "unet"}}
        more = {"group": "search", "job_type": "trial", "tags": ["running"], "name": f"trial {number}"}
        run = start(f"t{number}", {"sweep_id": sweep_id}, config=config, **more)
        run.define_metric("*", step_metric="epoch")
        log_epochs(run, 1, number)
        run.tags = ["completed"]
        run.summary["state"] = "completed"
        run.finish(exit_code=int(number == 3))
    assert server.unknown == []
    return sweep_id


def test_a_sweep_and_its_runs_arrive(server: WandbServer) -> None:
    assert wandb.login(verify=True)
    sweep_id = sweep_of_three(server)
    sweep = server.sweeps[sweep_id]
    assert (sweep.entity, sweep.project, sweep.states) == ("tester", "streets", ["RUNNING"])
    assert sweep.config["metric"] == SWEEP["metric"]
    assert sweep.config["parameters"].keys() == {"rate"}
    assert list(server.runs) == ["t1", "t2", "t3"]
    assert [run.state for run in server.runs.values()] == ["finished", "finished", "failed"]
    run = server.runs["t3"]
    assert (run.sweep, run.name, run.group, run.job_type, run.exit_code) == (sweep_id, "trial 3", "search", "trial", 1)
    assert (run.tags, run.config) == (["completed"], {"rate": 0.03, "model": {"family": "unet"}})
    assert (run.summary["mIoU"], run.summary["state"]) == (0.3, "completed")
    assert epochs(server, "t3") == [1, 2, 3]


def test_runs_start_and_end_side_by_side(server: WandbServer) -> None:
    def whole_run(number: int) -> None:
        run = start(f"t{number}")
        log_epochs(run, 1, 5)
        run.finish()

    wandb.setup()  # Threads that race for the first set-up may read no environment, and ask another server.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(whole_run, range(8)))
    assert sorted(server.runs) == [f"t{number}" for number in range(8)]
    assert all(epochs(server, run_id) == [1, 2, 3, 4, 5] for run_id in server.runs)
    assert {run.state for run in server.runs.values()} == {"finished"}


def test_a_run_resumes_behind_its_last_row(server: WandbServer) -> None:
    first = start("t1", config={"rate": 0.1}, tags=["a"])
    log_epochs(first, 1, 3)
    first.finish(exit_code=1)
    again = start("t1")
    assert (again.starting_step, again.resumed, dict(again.config)) == (3, True, {"rate": 0.1})
    log_epochs(again, 4, 6)
    again.finish()
    assert epochs(server, "t1") == [1, 2, 3, 4, 5, 6]
    assert [row["_step"] for row in server.runs["t1"].history] == list(range(6))
    assert (server.runs["t1"].state, server.runs["t1"].tags, server.unknown) == ("finished", ["a"], [])


def test_a_line_that_is_sent_again_replaces_the_first(server: WandbServer) -> None:
    run = start("t1")
    log_epochs(run, 1, 3)
    run.finish()
    body = {"files": {"wandb-history.jsonl": {"offset": 2, "content": ['{"epoch": 30}', '{"epoch": 40}']}}}
    status, _ = server.other("POST", "/files/tester/streets/t1/file_stream", json.dumps(body).encode())
    assert (status, epochs(server, "t1")) == (200, [1, 2, 30, 40])


@pytest.mark.parametrize("uncompressed", [True, False])
def test_files_tables_and_artifacts_arrive(server: WandbServer, tmp_path: Path, uncompressed: bool) -> None:
    (tmp_path / "report.html").write_text("first")
    run = start("front", {"x_file_stream_no_gzip": uncompressed})
    mask = {"prediction": {"mask_data": np.zeros((4, 4), np.uint8), "class_labels": {0: "road"}}}
    run.log({"gallery": wandb.Image(np.zeros((4, 4, 3), np.uint8), masks=mask)})
    run.log({"front": wandb.Table(columns=["trial", "shown"], data=[["t1", wandb.Image(np.ones((4, 4, 3)))]])})
    for text in ("first", "second"):
        (tmp_path / "report.html").write_text(text)
        report = wandb.Artifact("report", "report")
        report.add_file(str(tmp_path / "report.html"))
        run.log_artifact(report, aliases=["latest"]).wait(timeout=10)
    run.finish()
    media = [path for path in server.runs["front"].files if path.startswith("media/images/")]
    assert sorted(path.endswith(".mask.png") for path in media) == [False, True]
    assert all(server.runs["front"].files[path].startswith(b"\x89PNG") for path in media)
    table = next(artifact for artifact in server.artifacts if artifact.type == "run_table")
    assert json.loads(table.files["front.table.json"])["data"][0][0] == "t1"
    old, new = (artifact for artifact in server.artifacts if artifact.name == "report")
    assert (old.files["report.html"], new.files["report.html"]) == (b"first", b"second")
    assert (old.aliases, new.aliases, new.run) == ([], ["latest"], "front")
    assert {artifact.state for artifact in server.artifacts} == {"COMMITTED"}
    assert server.unknown == []


def test_the_command_line_sets_a_sweeps_state(server: WandbServer) -> None:
    sweep_id = wandb.sweep(SWEEP)
    for flag in ("--pause", "--resume", "--stop"):
        done = CliRunner().invoke(cli, ["sweep", flag, f"tester/streets/{sweep_id}"])
        assert done.exit_code == 0, done.output
    assert server.sweeps[sweep_id].states == ["RUNNING", "PAUSED", "RUNNING", "FINISHED"]
    assert server.unknown == []


def test_the_public_api_reads_what_arrived(server: WandbServer) -> None:
    sweep_id = sweep_of_three(server)
    api: Any = wandb.Api()
    sweep = api.sweep(f"tester/streets/{sweep_id}")
    assert (sweep.name, sweep.state, {run.id for run in sweep.runs}) == ("backbones", "RUNNING", {"t1", "t2", "t3"})
    best = sweep.best_run()
    assert (best.id, best.config["rate"], best.summary["mIoU"]) == ("t3", 0.03, 0.3)
    assert [found.id for found in api.project("streets", "tester").sweeps()] == [sweep_id]
    finished = api.runs("tester/streets", filters={"state": "finished", "config.rate.value": {"$gt": 0.015}})
    assert [run.id for run in finished] == ["t2"]
    assert [run.id for run in api.runs("tester/streets", order="-summary_metrics.mIoU", per_page=2)] == [
        "t3",
        "t2",
        "t1",
    ]
    assert [row["epoch"] for row in api.run("tester/streets/t2").history(pandas=False)] == [1, 2]
    assert server.unknown == []


def test_earlier_runs_join_a_new_sweep(server: WandbServer) -> None:
    for run_id in ("t1", "t2"):
        start(run_id).finish()
    sweep_id = wandb.sweep(SWEEP, prior_runs=["t2"])
    assert (server.runs["t1"].sweep, server.runs["t2"].sweep) == (None, sweep_id)


def test_an_offline_run_is_synced_into_its_sweep(server: WandbServer) -> None:
    sweep_id = wandb.sweep(SWEEP)
    run = wandb.init(id="t1", mode="offline", settings=wandb.Settings(**LEAN, sweep_id=sweep_id))
    log_epochs(run, 1, 3)
    folder = str(Path(run.dir).parent)
    run.finish()
    assert server.runs == {}
    subprocess.run([sys.executable, "-m", "wandb", "sync", folder], check=True, timeout=60)
    assert (epochs(server, "t1"), server.runs["t1"].sweep, server.runs["t1"].state) == ([1, 2, 3], sweep_id, "finished")
    assert server.unknown == []


def test_stop_run_reaches_the_client(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # The client asks its service every 15 s.
    defaults = RunStopChecker.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "poll_interval", 0.1)
    told = threading.Event()
    run = start("t1", {"stop_fn": told.set, "x_file_stream_transmit_interval": 1})
    log_epochs(run, 1, 2)
    assert not told.wait(1)
    server.stop_run("t1")
    log_epochs(run, 3, 4)
    assert told.wait(10)
    run.finish()
    assert epochs(server, "t1") == [1, 2, 3, 4]


def test_a_wrong_key_is_refused(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    with pytest.raises(AuthenticationError):
        wandb.login(verify=True)
    assert server.requests == ["Viewer"]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault(status=401), "401"),
        (Fault(status=403), "403"),
        (Fault(status=429), "429"),
        (Fault(status=500), "500"),
        (Fault(hang=True), "deadline exceeded"),
        (None, "connection refused"),
    ],
)
def test_each_fault_is_met_and_passes(server: WandbServer, fault: Fault | None, told: str) -> None:
    server.fault = fault
    if fault is None:
        server.die()
    with pytest.raises(CommError, match=told):
        start("t1", {"init_timeout": 2, "x_graphql_retry_max": 1, "x_graphql_retry_wait_max_seconds": 1})
    assert server.runs == {}
    server.fault = None
    server.revive()
    start("t2").finish()
    assert list(server.runs) == ["t2"]


@pytest.mark.parametrize("dead", [True, False])
def test_a_run_outlives_a_fault(server: WandbServer, dead: bool) -> None:
    quick = {"x_file_stream_transmit_interval": 1, "x_file_stream_timeout_seconds": 1}
    run = start("t1", {**quick, "x_file_stream_retry_wait_min_seconds": 0.1, "x_file_stream_retry_wait_max_seconds": 1})
    log_epochs(run, 1, 1)
    server.die() if dead else setattr(server, "fault", Fault(hang=True))
    log_epochs(run, 2, 50)
    time.sleep(1.5)  # a report a second: at least one has met the fault
    assert server.runs["t1"].history == []
    server.revive()
    server.fault = None
    run.finish()
    assert epochs(server, "t1") == list(range(1, 51))
    assert server.runs["t1"].state == "finished"


def test_an_answer_takes_as_long_as_the_network(server: WandbServer) -> None:
    server.delay_s = 0.3
    begun = time.monotonic()
    with urllib.request.urlopen(f"{server.url}/-/recorded"):
        told_at_once = time.monotonic() - begun
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{server.url}/anything")
    assert told_at_once < 0.3 < time.monotonic() - begun


def test_what_the_server_does_not_know_is_noted(server: WandbServer) -> None:
    with pytest.raises(WandbApiFailedError, match="does not know the operation Strange"):
        wandb.Api()._service_api.execute_graphql("query Strange { strange }")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/storage/strange", method="PUT", data=b""))
    assert server.unknown == ["Strange", "PUT /storage/strange"]


def test_alone_it_tells_what_it_recorded_and_takes_faults() -> None:
    script = Path(__file__).with_name("wandb_server.py")
    with subprocess.Popen([sys.executable, script, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url, key = process.stdout.readline().split()
            fault = urllib.request.Request(f"{url}/-/fault", data=b'{"status": 500}')
            urllib.request.urlopen(fault).close()
            with pytest.raises(urllib.error.HTTPError, match="500"):
                urllib.request.urlopen(f"{url}/anything")
            with urllib.request.urlopen(f"{url}/-/recorded") as answer:
                recorded = json.load(answer)
        finally:
            process.terminate()
    assert len(key) == 40
    assert recorded == {"sweeps": {}, "runs": {}, "artifacts": [], "requests": ["GET /anything"], "unknown": []}
