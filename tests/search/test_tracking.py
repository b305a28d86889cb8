"""W&B beside a search: never in its way, whatever the server does, and nothing lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pytest
from on_wandb import assert_on_wandb, place_of
from untrained_search import main_elsewhere
from wandb_server import Fault, WandbServer

from search import columns
from search.run_folder import RunFolder

TRIALS, EPOCHS = 3, 3
DRAIN_S = 9.0
FORKS = multiprocessing.get_context("forkserver")

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module", autouse=True)
def _imported_once() -> None:
    """Searches are forked off a process that has imported all they need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        FORKS.set_forkserver_preload(["untrained_search"])
        forkserver.ensure_running()


class Player:
    """A search in a process of its own, with W&B beside it."""

    def __init__(self, server: WandbServer, run: RunFolder, *options: str) -> None:
        self.server, self.run = server, run
        self._file = run.path.with_suffix(f".{len(list(run.path.parent.iterdir()))}.txt")
        arguments = [str(run.path), "--trials", str(TRIALS), "--epochs", str(EPOCHS), *options]
        self.process = FORKS.Process(target=main_elsewhere, args=(arguments, server.environment(), self._file))
        self.process.start()

    @property
    def pid(self) -> int:
        """Of the search."""
        return int(self.process.pid or 0)

    def printed(self) -> str:
        """What it said, once it has ended."""
        self.process.join(120)
        assert self.process.exitcode == 0, self._file.read_text()
        return self._file.read_text()


def sync(server: WandbServer, run: RunFolder, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "search.sync", f"run={run.name}", f"runs={run.path.parent}", *options]
    environment = os.environ | server.environment()
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def output(process: subprocess.Popen[str]) -> str:
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return printed


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


FAULTS: dict[str, Fault | None] = {
    "unreachable": None,
    "dying": None,
    "401": Fault(status=401),
    "403": Fault(status=403),
    "429": Fault(status=429),
    "500": Fault(status=500),
    "hanging": Fault(hang=True),
}
ENDLESS = ("dying", "hanging")
"""Faults in which nothing ends of itself: these searches wait for W&B as long as they may."""
SETTINGS = {"dying": ("online", 6), "bereft": ("online", 6), "followed": ("off", 2)}
"""Mode and pause after each epoch, where they matter."""
TOLD = {
    "unreachable": "cannot be reached (Connection refused)",
    "dying": "did not take everything within 9 s|cannot be reached (Connection refused)",
    "401": "refuses the API key found here (HTTP 401)",
    "403": "refuses the API key found here (HTTP 403)",
    "429": "answers with HTTP 429 Too Many Requests",
    "500": "answers with HTTP 500 Internal Server Error",
    "hanging": "did not answer within 5 s|did not take everything within 9 s",
}


@pytest.fixture(scope="module")
def players(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Player]]:
    """One search per fault, one whose mirroring process is killed, and one without; all at the same time, and ended."""
    folder = tmp_path_factory.mktemp("searches")
    with ExitStack() as stack:
        players = {}
        for name, fault in (FAULTS | {"bereft": None, "followed": None}).items():
            server = stack.enter_context(WandbServer())
            server.fault = fault
            if name == "unreachable":
                server.die()
            drain_s = DRAIN_S if name in ENDLESS else 60
            mode, pause_s = SETTINGS.get(name, ("online", 0.5))
            settings = [
                "--mode",
                mode,
                "--pause-s",
                str(pause_s),
                "--drain-s",
                str(drain_s),
                "--concurrent",
                str(TRIALS),
            ]
            players[name] = Player(server, RunFolder(folder / name), *settings)
        follower = sync(players["followed"].server, players["followed"].run, "follow=true")
        wait_until(lambda: has_rows(players["dying"].server) and has_rows(players["bereft"].server))
        players["dying"].server.die()
        os.killpg(mirroring(players["bereft"].pid), signal.SIGKILL)
        for player in players.values():
            player.printed()
        assert f"{TRIALS} trials of run followed are on W&B" in output(follower)
        yield players


@pytest.mark.parametrize("name", FAULTS)
def test_a_search_is_the_same_whatever_wandb_does(players: dict[str, Player], name: str) -> None:
    player = players[name]
    trials = {row[columns.TRIAL_ID]: row for row in player.run.read_trials().to_pylist()}
    assert {trial: (row[columns.STATE], row[columns.EPOCH]) for trial, row in trials.items()} == {
        f"t{index:04d}": (columns.COMPLETED, EPOCHS) for index in range(TRIALS)
    }
    assert player.run.read_epochs().num_rows == TRIALS * EPOCHS
    lines = player.printed().splitlines()
    why = [line for line in lines if any(told in line for told in TOLD[name].split("|"))]
    assert len(why) == 1, f"said once, and why: {lines}"
    assert f"python -m search.sync run={name}" in lines[-1]


@pytest.mark.parametrize("name", ["401", "403"])
def test_a_refused_key_is_said_before_the_search(players: dict[str, Player], name: str) -> None:
    assert "refuses the API key" in players[name].printed().splitlines()[0]


def test_what_wandb_missed_arrives_once_it_is_well(players: dict[str, Player]) -> None:
    healed = ("dying", "401", "hanging")  # which had rows there, was offline, and was still trying
    for name in healed:
        players[name].server.fault = None
        players[name].server.revive()
    syncs = {name: sync(players[name].server, players[name].run) for name in healed}
    for name, process in syncs.items():
        assert f"{TRIALS} trials of run {name} are on W&B" in output(process)
        assert_on_wandb(players[name].server, players[name].run)


def test_nothing_of_wandb_goes_on_after_a_search_that_waits_no_longer(tmp_path: Path) -> None:
    """Its service would bring what it still has once the server is back, on top of what was sent by then."""
    with WandbServer() as server:
        player = Player(server, RunFolder(tmp_path / "left"), "--pause-s", "2", "--drain-s", "2")
        wait_until(lambda: has_rows(server))
        server.fault = Fault(hang=True)
        assert "did not take everything within 2 s" in player.printed()
        assert services(server) == []


@pytest.mark.slow
def test_a_server_that_comes_back_gets_everything_while_the_search_goes_on(tmp_path: Path) -> None:
    with WandbServer() as server:
        server.fault = Fault(status=500)
        player = Player(server, RunFolder(tmp_path / "comes-back"), "--pause-s", "5")
        log = player.run.wandb / "tracking.log"
        wait_until(lambda: log.exists() and "HTTP 500" in log.read_text())
        server.fault = None
        assert player.printed().splitlines()[-1] == f"W&B: {place_of(player.run).url}"
        assert_on_wandb(server, player.run)


def test_a_mirroring_process_that_is_killed_is_followed_by_another(players: dict[str, Player]) -> None:
    player = players["bereft"]
    assert player.printed().splitlines()[-1] == f"W&B: {place_of(player.run).url}"
    assert_on_wandb(player.server, player.run)


def test_sync_follows_a_search_that_does_not_track(players: dict[str, Player]) -> None:
    """As from the login node of a cluster whose nodes have no network."""
    assert "W&B" not in players["followed"].printed()
    assert_on_wandb(players["followed"].server, players["followed"].run)


@pytest.mark.slow
@pytest.mark.parametrize("both", [False, True])
def test_a_search_that_is_killed_leaves_one_sweep_and_no_row_missing(tmp_path: Path, both: bool) -> None:
    with WandbServer() as server:
        run = RunFolder(tmp_path / "killed")
        player = Player(server, run, "--pause-s", "2")
        wait_until(lambda: has_rows(server))
        beside = mirroring(player.pid)
        os.kill(player.pid, signal.SIGKILL)
        if both:
            os.killpg(beside, signal.SIGKILL)
        player.process.join()
        player = Player(server, run)
        assert player.printed().splitlines()[-1] == f"W&B: {place_of(run).url}"
        assert_on_wandb(server, run)


def has_rows(server: WandbServer) -> bool:
    return any(there.history for there in server.runs.values())


def services(server: WandbServer) -> list[psutil.Process]:
    """Processes of W&B's own that talk to the server."""
    alive = [process for process in psutil.process_iter() if process.status() != psutil.STATUS_ZOMBIE]
    found = [process for process in alive if process.name() == "wandb-core"]
    return [process for process in found if process.environ().get("WANDB_BASE_URL") == server.url]


def mirroring(pid: int) -> int:
    """The process that mirrors the search ``pid``."""
    found = subprocess.run(
        ["pgrep", "-P", str(pid), "-f", "search.tracking"], capture_output=True, text=True, check=True
    )
    return int(found.stdout)
