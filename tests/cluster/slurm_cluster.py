"""A Slurm cluster on this machine, from its packages: munged, one slurmctld and two nodes, all in the foreground."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ray_nodes import wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "squeue", "srun")
NODES = ("n1", "n2")
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={sockets}/munge,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
KillWait=10
NodeName={names[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 Gres=gpu:2
NodeName={names[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 Gres=gpu:2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """What keeps Slurm from running here, and what to do; none when nothing does."""
    if os.getuid() != 0:
        return "Slurm's daemons run as root here: run the test as root"
    if absent := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(absent)} not found: apt-get install slurm-wlm munge"
    return None


@dataclass(frozen=True)
class Job:
    """A submitted job."""

    slurm: SlurmCluster
    number: str

    @property
    def fields(self) -> dict[str, str]:
        """What ``scontrol show job`` says."""
        shown = self.slurm.call("scontrol", "show", "--oneliner", "job", self.number)
        return dict(item.split("=", 1) for item in shown.split() if "=" in item)

    @property
    def output(self) -> str:
        """What it printed so far."""
        file = Path(self.fields["StdOut"])
        return file.read_text() if file.exists() else ""

    @property
    def ended(self) -> bool:
        """Whether it is over, in whatever way."""
        return self.fields["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

    def requeue(self) -> None:
        """Kill it and let it start again: now, and not in two minutes as Slurm would have it."""
        self.slurm.call("scontrol", "requeue", self.number)
        wait_until(lambda: self.fields["JobState"] == "PENDING", f"job {self.number} is requeued", 60)
        self.slurm.call("scontrol", "update", f"JobId={self.number}", "StartTime=now")

    def wait(self, wait_s: float = 420.0) -> tuple[str, str]:
        """State and exit code at the job's end."""
        wait_until(lambda: self.ended, f"job {self.number} ends", wait_s)
        return self.fields["JobState"], self.fields["ExitCode"]


class SlurmCluster:
    """The running cluster."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = {**environment, "SLURM_CONF": str(folder / "slurm.conf")}

    def call(self, *command: str, cwd: Path | None = None) -> str:
        """Output of a Slurm command."""
        done = subprocess.run(command, env=self.environment, cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def submit(self, workplace: Path, *arguments: str) -> Job:
        """``sbatch`` in the folder ``workplace``."""
        return Job(self, self.call("sbatch", "--parsable", *arguments, cwd=workplace).strip())

    def clear(self) -> None:
        """Cancel all jobs and wait for their end."""
        self.call("scancel", f"--user={getpass.getuser()}")
        wait_until(self.idle, "all jobs have ended", 60)

    def idle(self) -> bool:
        """Whether no job is there and no node is down."""
        nodes = self.call("sinfo", "--noheader", "--Node", "--format=%t").split()
        return not self.call("squeue", "--noheader").strip() and nodes == ["idle"] * len(NODES)


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """Slurm with two nodes of two cores and two (made-up) GPUs each; its files go to ``folder``."""
    sockets = Path(tempfile.mkdtemp(prefix="munge"))  # Short: the path of a socket may have 107 bytes.
    sockets.chmod(0o755)
    _configure(folder, sockets)
    own = ("RAY_", "SLURM_", "SBATCH_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    slurm = SlurmCluster(folder, environment)
    daemons = [_munged(folder, sockets), ["slurmctld", "-D", "-i"], *(["slurmd", "-D", "-N", name] for name in NODES)]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, daemon in enumerate(daemons):
            with (folder / f"daemon{number}.log").open("wb") as log:
                process = subprocess.Popen(daemon, env=slurm.environment, stdout=log, stderr=subprocess.STDOUT)
            processes.append(process)
            if number == 0:
                wait_until((sockets / "munge").exists, "munged answers", 30)
        wait_until(lambda: _answers(slurm), "Slurm's nodes are idle", 60)
        yield slurm
    finally:
        with suppress(AssertionError):
            slurm.clear()
        for process in reversed(processes):
            process.terminate()
            process.wait()
        shutil.rmtree(sockets)


def _configure(folder: Path, sockets: Path) -> None:
    held = [socket.socket() for _ in range(3)]
    for item in held:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in held]
    for item in held:
        item.close()
    text = CONFIG.format(folder=folder, sockets=sockets, host=socket.gethostname(), ports=ports, names=NODES)
    (folder / "slurm.conf").write_text(text)
    for number in range(2):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"NodeName={','.join(NODES)} Name=gpu File={folder}/gpu[0-1]\n")
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)


def _munged(folder: Path, sockets: Path) -> list[str]:
    files = {"key-file": folder / "munge.key", "socket": sockets / "munge", "pid-file": sockets / "pid"}
    files |= {"log-file": folder / "munged.log", "seed-file": folder / "munge.seed"}
    return ["munged", "--foreground", "--force", *(f"--{name}={file}" for name, file in files.items())]


def _answers(slurm: SlurmCluster) -> bool:
    try:
        return slurm.idle()
    except AssertionError:
        return False
