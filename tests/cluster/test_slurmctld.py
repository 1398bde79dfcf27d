"""The script for Slurm as users submit it, on a real slurmctld with two nodes, each with a Ray of its own.

What differs from a cluster: the nodes are namespaces of this machine and share its CPUs; Slurm is told that each has a
GPU; and a job takes two CPUs per node, lest Ray starts more processes than a small machine holds.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gallop_ray.records.events import PhaseBegan
from gallop_ray.records.folders import SweepFolder
from tests.cluster.files import CLUSTER
from tests.cluster.slurm_cluster import SlurmCluster, slurm_cluster
from tests.faults import books
from tests.sweep import command

pytestmark = pytest.mark.slurm

_WORKER = "ray::RayTrainWorker"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


class _Sweep:
    """A sweep each of whose runs takes a worker on both nodes, and the commands of the README for it."""

    def __init__(self, cluster: SlurmCluster, folder: Path, steps: int) -> None:
        self.cluster = cluster
        self.tracking = f"sqlite:///{folder / 'mlflow.db'}"
        self.output = folder / "runs"
        self.file = command.write_sweep(
            folder,
            methods=[{"type": "gallop", "density": 0.05}],
            search={"space": {"training.learning_rate": {"choice": [1e-4, 2e-4]}}},
            training={**command.TINY["training"], "steps": steps, "checkpoint_steps": 8},
            evaluation={"generate": False},
            budget={"configurations": 2},
            resources={"workers_per_slot": 2, "cpus_per_worker": 1.5, "slots": 1},
            tracking={"uri": self.tracking},
        )
        self.folder = SweepFolder(self.output / "tiny")

    def submit(self) -> str:
        """The job's number."""
        script = CLUSTER / "slurm/gallop_ray.sbatch"
        return self.cluster.call("sbatch", "--parsable", "--cpus-per-task=2", script, self.file, self.output).strip()

    def trains(self) -> bool:
        """Whether a run has come to its training."""
        runs = self.folder.runs() if self.folder.path.exists() else ()
        events = [event for run in runs for event in run.events()]
        return any(isinstance(event, PhaseBegan) and event.phase == "training" for event in events)

    def keeps(self) -> bool:
        """Whether a stop would lose no more than steps since a checkpoint."""
        runs = self.folder.runs() if self.folder.path.exists() else ()
        return any(run.checkpoint.exists() or run.result() for run in runs)


def test_a_cancelled_job_ends_for_good(cluster: SlurmCluster, tmp_path: Path) -> None:
    """Although Slurm sends the script the same signal as before the limit."""
    sweep = _Sweep(cluster, tmp_path, steps=2000)
    job = sweep.submit()
    cluster.wait(job, "training", sweep.trains)
    cluster.call("scancel", job)
    over = ("CANCELLED", "PENDING")
    cluster.wait(job, "end", lambda: cluster.job(job)["JobState"] in over, seconds=100)
    found = cluster.job(job)
    assert (found["JobState"], found["Restarts"]) == ("CANCELLED", "0"), cluster.log(job)
    cluster.wait(job, "end of its workers", lambda: not cluster.nodes_with("ray::"), seconds=60)


def test_at_its_limit_a_job_is_requeued_and_its_sweep_resumes(cluster: SlurmCluster, tmp_path: Path) -> None:
    sweep = _Sweep(cluster, tmp_path, steps=100)
    job = sweep.submit()
    cluster.wait(job, "training", sweep.trains)
    assert len(cluster.nodes_with(_WORKER)) == 2, "the workers of a run are on one node"
    cluster.wait(job, "checkpoint", sweep.keeps)

    # Slurm looks at limits twice a minute, and signals if less than two and a half are left.
    cluster.call("scontrol", "update", f"JobId={job}", "EndTime=now+145seconds")
    cluster.wait(job, "second start", lambda: cluster.job(job)["JobState"] == "PENDING", seconds=180)
    assert cluster.job(job)["Restarts"] == "1", cluster.log(job)
    assert "DUE TO TIME LIMIT" not in cluster.log(job), "the script has not stopped the sweep in time"
    finished, kept = books.finished(sweep.folder), books.kept_steps(sweep.folder)
    assert len(finished) < 4
    assert finished or any(step for step, _ in kept.values()), "nothing was kept"

    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=240")
    cluster.wait(job, "end", lambda: cluster.job(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"))
    found = cluster.job(job)
    assert (found["JobState"], found["ExitCode"], found["Restarts"]) == ("COMPLETED", "0:0", "1"), cluster.log(job)
    _check_resumed(sweep, finished, kept)
    books.check(sweep.folder, sweep.tracking, configurations=2, runs=4)


def _check_resumed(sweep: _Sweep, finished: dict[Path, bytes], kept: dict[Path, tuple[int, int]]) -> None:
    """No finished run was run again, and no step that a checkpoint held."""
    now = books.finished(sweep.folder)
    assert {path: now[path] for path in finished} == finished
    for path, (step, attempt) in kept.items():
        run = sweep.folder.run(path.parent.name, int(path.name.removeprefix("seed-")))
        assert run.attempt() > attempt
        first = books.first_step(run)
        assert first is None or first > step
