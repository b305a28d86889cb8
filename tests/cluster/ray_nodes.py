"""A Ray cluster of several nodes on one machine, each with processes and an address of its own, to be killed."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

WAIT_S = 400.0
"""Longest wait for anything to happen."""
MARKS = "EPOCHS_TRAINED"
"""Environment variable: the file that ``epoch_marks`` writes to."""
NOTICE = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "10000",
    "RAY_health_check_failure_threshold": "3",
}
"""By itself Ray takes half a minute to notice that a node is dead. A busy machine may be slow to answer."""
IDLE = {"RAY_num_workers_soft_limit": "8"}
"""By itself a node of one core keeps one idle process, so that each task of a search imports torch anew."""
NO_ACTORS = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""What processes of Ray's own are called."""


def wait_until(ready: Callable[[], bool], what: str, wait_s: float = WAIT_S) -> None:
    """Return once ``ready`` says so."""
    deadline = time.monotonic() + wait_s
    while not ready():
        assert time.monotonic() < deadline, f"not within {wait_s:g} s: {what}"
        time.sleep(0.05)


def session_processes(session: int) -> list[psutil.Process]:
    """All processes alive in the session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def title(process: psutil.Process) -> str:
    """What the process calls itself; empty when it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


class RayNode:
    """One node: ``ray start --block`` as the leader of a session, in which all its processes live."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], folder: Path) -> None:
        folder.mkdir()
        self._output = folder / "output"
        with self._output.open("w") as stream:
            self._process = subprocess.Popen(
                command, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.pid = self._process.pid

    def joined(self) -> RayNode:
        """The same, once it has joined the cluster."""

        def up() -> bool:
            assert self._process.poll() is None, self._output.read_text()
            return "Ray runtime started" in self._output.read_text()

        wait_until(up, "the node joins")
        return self

    def actors(self) -> list[psutil.Process]:
        """The processes on the node that train a trial, or wait for one."""
        named = [(process, title(process).strip()) for process in session_processes(self.pid)]
        return [process for process, name in named if name.startswith("ray::") and name not in NO_ACTORS]

    def kill(self) -> None:
        """SIGKILL for all that runs on the node, as when a machine loses its power."""
        while processes := session_processes(self.pid):
            for process in processes:
                send(process, signal.SIGKILL)
            time.sleep(0.05)
        self._process.wait()


class RayNodes:
    """A head without cores to train on, and worker nodes that come and go."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._count = folder, 0
        self.environment = environment
        self.workers: list[RayNode] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self._head = self._start(["--head", "--port", str(port), "--include-dashboard", "false"], cpus=0)
        self._head.joined()

    @property
    def settings(self) -> list[str]:
        """What makes a search run here."""
        return ["cluster=address", f"cluster.address={self.address}"]

    def add(self, *, cpus: int = 1, within: Sequence[str] = ()) -> RayNode:
        """Start a worker node, through the command ``within`` if there is one; it may not have joined yet."""
        node = self._start(["--address", self.address], cpus, within)
        self.workers.append(node)
        return node

    def close(self) -> None:
        """Kill what is left."""
        for node in [*self.workers, self._head]:
            node.kill()

    def _start(self, role: Sequence[str], cpus: int, within: Sequence[str] = ()) -> RayNode:
        self._count += 1
        folder = self._folder / str(self._count)
        ray = str(Path(sys.executable).with_name("ray"))
        # An address of its own, so that a driver on this machine attaches to the head alone.
        where = ["--node-ip-address", f"127.0.0.{self._count}", "--temp-dir", str(folder)]
        size = ["--num-cpus", str(cpus), "--num-gpus", "0", "--object-store-memory", "80000000"]
        command = [*within, ray, "start", *role, *where, *size, "--block", "--disable-usage-stats"]
        return RayNode(command, self.environment, folder)


@contextmanager
def ray_nodes(marks: Path, *, workers: int) -> Iterator[RayNodes]:
    """A cluster with a token of its own, whose processes write what they train to ``marks``."""
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "OMP_NUM_THREADS": "1", MARKS: str(marks)}
    places = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    modules = {"PYTHONPATH": os.pathsep.join(places), "RAY_preload_python_modules": "epoch_marks"}
    folder = Path(tempfile.mkdtemp(prefix="rn"))  # Short: the paths of sockets may have 107 bytes.
    nodes = RayNodes(folder, {**os.environ, **NOTICE, **IDLE, **own, **modules})
    try:
        for node in [nodes.add() for _ in range(workers)]:
            node.joined()
        yield nodes
    finally:
        nodes.close()
        shutil.rmtree(folder)
