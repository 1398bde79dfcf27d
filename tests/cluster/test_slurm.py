"""The script for Slurm in bash, with programs in the places of Slurm's and Ray's that note how they are called.

What it does on a real slurmctld is tried in test_slurmctld.py.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gallop_ray.records import control
from gallop_ray.records.folders import SweepFolder
from tests.cluster.files import CLUSTER

_OUTPUT = "/shared/my sweeps"
_PROGRAMS = {
    # Of two nodes, and of a job in the state that $STATE says.
    "scontrol": """
case "$1 $2" in
    "show hostnames") printf "n1\\nn2\\n" ;;
    "show job") echo "   JobState=${STATE:-RUNNING Reason=None} Dependency=(null)" ;;
    requeue*) ;;
    *) exit 9
esac""",
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "ray": '[ -n "${BROKEN:-}" ] && exit; while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
    # A sweep that runs until it is stopped, or ends at once with the code in $ENDS.
    "gallop-ray": """
if [ "$1" = stop ]; then [ -n "${DEAF:-}" ] && exit 2; touch stopped; exit; fi
touch running
[ -n "${ENDS:-}" ] && exit "$ENDS"
until [ -e stopped ]; do sleep 0.1; done""",
}


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    """The environment of a job; its programs write a line per call into the file calls."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in _PROGRAMS.items():
        (programs / name).write_text(f'#!/bin/bash\necho "{name} $*" >> calls\n{text}\n')
        (programs / name).chmod(0o755)
    (tmp_path / "sweep.yaml").write_text("name: mine\n")
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_NODEID": "0"}
    env = {name: value for name, value in os.environ.items() if name != "USER"}  # which cron, for one, does not set
    return {**env, **slurm, "PATH": path, "SLURM_CPUS_PER_TASK": "8"}


def _start(folder: Path, env: dict[str, str], output: str = _OUTPUT) -> "subprocess.Popen[str]":
    script = ["bash", str(CLUSTER / "slurm/gallop_ray.sbatch"), "sweep.yaml", output]
    return subprocess.Popen(script, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def _calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_sweep_that_ends_ends_the_job_with_its_code(tmp_path: Path, job: dict[str, str], code: int) -> None:
    process = _start(tmp_path, {**job, "ENDS": str(code)})
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    calls = _calls(tmp_path)
    assert not any(call.startswith("scontrol requeue") for call in calls)
    assert "ray symmetric-run --address n1:6379 --min-nodes 2 --num-cpus=8 -- bash -c" in str(calls)
    assert "gallop-ray run sweep.yaml --set output=/shared/my sweeps" in calls
    (srun,) = (call for call in calls if call.startswith("srun"))
    assert "--cpus-per-task=8 " in srun, "srun does not take it over from the job"


def test_a_job_whose_ray_does_not_start_has_failed(tmp_path: Path, job: dict[str, str]) -> None:
    """`ray symmetric-run` ends with 0 then."""
    process = _start(tmp_path, {**job, "BROKEN": "yes"})
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert not (tmp_path / "running").exists()


@pytest.mark.parametrize("deaf", ["", "yes"])
def test_before_the_limit_the_sweep_stops_and_the_job_is_requeued(
    tmp_path: Path, job: dict[str, str], deaf: str
) -> None:
    """Slurm sends SIGTERM to the script alone. deaf: the sweep has not begun, so that there is nothing to stop."""
    calls = _told(tmp_path, {**job, "DEAF": deaf})
    assert calls[-3:] == ["gallop-ray stop /shared/my sweeps/mine --now", "scontrol show job 7", "scontrol requeue 7"]
    assert (tmp_path / "stopped").exists() == (not deaf)


@pytest.mark.parametrize(
    ("state", "again"),
    [("COMPLETING Reason=TimeLimit", True), ("COMPLETING Reason=None", False), ("CANCELLED Reason=None", False)],
)
def test_a_cancelled_job_is_not_requeued(tmp_path: Path, job: dict[str, str], state: str, again: bool) -> None:
    """Slurm sends SIGTERM then, too, and would let a cancelled job begin again. One whose time is over shall."""
    assert ("scontrol requeue 7" in _told(tmp_path, {**job, "STATE": state})) == again


@pytest.mark.parametrize(("asked", "again"), [(None, True), ("pause", True), ("stop", False), ("stop now", True)])
def test_a_sweep_that_its_user_stops_does_not_begin_again(
    tmp_path: Path, job: dict[str, str], asked: control.Asked | None, again: bool
) -> None:
    """But for the limit, the job would end after the active runs. `stop now` is what an earlier start was told."""
    sweep = SweepFolder(tmp_path / "mine")
    sweep.path.mkdir()
    control.ask(sweep, asked)
    assert ("scontrol requeue 7" in _told(tmp_path, job, output=str(tmp_path))) == again


def _told(folder: Path, job: dict[str, str], output: str = _OUTPUT) -> list[str]:
    """The calls of a job that is sent SIGTERM while its sweep runs."""
    process = _start(folder, job, output)
    until = time.monotonic() + 60
    while not (folder / "running").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    return _calls(folder)


def test_without_its_arguments_it_says_how_it_is_called(tmp_path: Path, job: dict[str, str]) -> None:
    script = ["bash", str(CLUSTER / "slurm/gallop_ray.sbatch"), "sweep.yaml"]
    done = subprocess.run(script, cwd=tmp_path, env=job, text=True, capture_output=True, timeout=60)
    assert done.returncode != 0
    assert "usage: sbatch gallop_ray.sbatch SWEEP.yaml OUTPUT" in done.stderr
