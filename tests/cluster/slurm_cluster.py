"""A Slurm of the tests' own: a controller and two nodes on this machine, which nobody else sees."""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

_PACKAGES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "ip": "iproute2",
    "unshare": "util-linux",
}
"""Programs, and Debian's packages of them."""
_HOSTS = "127.0.0.1 localhost\n10.231.7.254 controller\n10.231.7.1 n1\n10.231.7.2 n2\n"
_CONF = """\
ClusterName=gallop
SlurmctldHost=controller
SlurmUser=root
# A requeued job waits until the last credential of its nodes has expired, two minutes by default.
AuthInfo=cred_expire=10
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n/slurmd.pid
SlurmdSpoolDir={folder}/%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MinJobAge=86400
GresTypes=gpu
# Eight CPUs and a GPU, as the script asks for, whatever this machine has.
SlurmdParameters=config_overrides
NodeName=n[1-2] CPUs=8 Gres=gpu:1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_GRES = "NodeName=n[1-2] Name=gpu File=/dev/null\n"
_RAY = Path("/tmp/ray-root")
"""Where the script has Ray put its files: the nodes mount a folder of their own there."""


class SlurmCluster:
    """What users do on it."""

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]") -> None:
        self.folder = folder
        self._process = process

    def call(self, *command: str | Path) -> str:
        """Run one of Slurm's programs on the controller; what it printed."""
        there = ["nsenter", f"--target={self._process.pid}", "--net", "--mount", "--uts", "--wd=."]
        # From an environment that is active, with nothing of the tests' own Ray.
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env |= {"SLURM_CONF": str(self.folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
        env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
        done = subprocess.run([*there, *command], cwd=self.folder, env=env, text=True, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def job(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says."""
        words = self.call("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def log(self, job: str) -> str:
        """What the job has printed."""
        path = self.folder / f"gallop_ray-{job}.log"
        return path.read_text() if path.exists() else ""

    def nodes_with(self, title: str) -> set[str]:
        """The nodes on which processes with this title are running, each named by its namespace."""
        found = set()
        for each in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.Error, OSError):
                if (each.cmdline() or [""])[0].startswith(title):
                    found.add(os.readlink(f"/proc/{each.pid}/ns/uts"))
        return found

    def wait(self, job: str, what: str, until: Callable[[], bool], seconds: float = 900) -> None:
        """Look every half second until that is so."""
        end = time.monotonic() + seconds
        while not until():
            state = self.job(job)["JobState"]
            said = f"no {what}, {state}:\n{self.log(job)}"
            assert state not in ("FAILED", "TIMEOUT", "NODE_FAIL"), said
            assert time.monotonic() < end, said
            time.sleep(0.5)


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """Start it; stop it with all that runs on it."""
    missing = {package for program, package in _PACKAGES.items() if shutil.which(program) is None}
    if missing:
        pytest.skip(f"install Debian's {' '.join(sorted(missing))}")
    if os.geteuid() != 0:
        pytest.skip("only root may make namespaces with a network")
    (folder / "slurm.conf").write_text(_CONF.format(folder=folder))
    (folder / "gres.conf").write_text(_GRES)
    (folder / "hosts").write_text(_HOSTS)
    key = folder / "munge.key"
    key.touch(mode=0o400)
    key.write_bytes(secrets.token_bytes(128))
    _RAY.mkdir(exist_ok=True)
    apart = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    output = folder / "daemons.log"
    with output.open("w") as log:
        script = [*apart, "bash", str(Path(__file__).with_suffix(".sh")), str(folder)]
        process = subprocess.Popen(script, stdout=log, stderr=log, start_new_session=True)
    try:
        cluster = SlurmCluster(folder, process)
        _wait_for_nodes(cluster, process, output)
        yield cluster
    finally:
        process.kill()  # and with it the first process of the namespace, whose end is that of all others
        process.wait()
        with suppress(OSError):
            _RAY.rmdir()


def _wait_for_nodes(cluster: SlurmCluster, process: "subprocess.Popen[bytes]", output: Path) -> None:
    until = time.monotonic() + 60
    seen = ""
    while seen != "2 idle":
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < until, f"{seen}\n{output.read_text()}"
        time.sleep(0.5)
        with suppress(AssertionError):  # it does not listen yet
            seen = cluster.call("sinfo", "--noheader", "--format=%D %t").strip()
