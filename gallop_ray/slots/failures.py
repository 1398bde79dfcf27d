"""How a run can fail, and what follows: the classes of failure, their policies, and the class of an exception."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gallop_ray.disk.bucket.tree import stamp
from gallop_ray.disk.regular import remove
from gallop_ray.disk.trouble import is_storage_trouble
from gallop_ray.errors import BaseChanged, Diverged
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.results import RunResult
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.slots.jobs import Failure, Outcome
from gallop_ray.sparse.memory import is_out_of_memory

_SAME_FAILURE = 3  # configurations that failed alike before any run finished: the cause is hardly in them
# How gloo and NCCL word another rank's death.
_PEER_GONE = ("/gloo/", "NCCL", "DistBackendError", "DistNetworkError", "Connection closed by peer")


@dataclass(frozen=True)
class Policy:
    """What follows from a failure.

    retries: how often the run is restarted. For `lost` and `preempted` only consecutive attempts without progress
    count.
    """

    retries: int
    status: Literal["failed", "diverged"] = "failed"
    smaller_batch: bool = False
    stops_sweep: bool = False


# A ValueError on all ranks is a mistake in what was asked. Whatever concerns every configuration (data, model, target
# modules, extreme densities, optimizer) is checked before the first run and stops the sweep there. One that is left is
# this configuration's alone: a retry would give the same message, and the others continue.
POLICIES: dict[Failure, Policy] = {
    "out_of_memory": Policy(retries=64, smaller_batch=True),
    "lost": Policy(retries=5),  # nodes are also taken away without notice
    "preempted": Policy(retries=20),
    "diverged": Policy(retries=0, status="diverged"),
    "refused": Policy(retries=0),
    "failed": Policy(retries=1),
    "base_changed": Policy(retries=0),
    "storage": Policy(retries=0, stops_sweep=True),  # full, read-only, gone: every run would fail alike
}


def classify(error: BaseException) -> Failure:
    """The class of an exception that ended a run on one rank."""
    # First: safetensors and others wrap the system's errors in classes of their own.
    if is_storage_trouble(error):
        return "storage"
    if is_out_of_memory(error):
        return "out_of_memory"
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, BaseChanged):
        # Where it cannot be restored here, the workers restart and load the model again, as after any failure.
        return "base_changed" if error.restored else "failed"
    if any(words in f"{type(error).__name__}: {error}" for words in _PEER_GONE):
        return "lost"
    return "refused" if isinstance(error, ValueError) else "failed"


def smaller_micro_batch(size: int) -> int | None:
    """The largest proper divisor of a micro-batch's size, so that batches still divide evenly; None for 1."""
    return next((part for part in range(size // 2, 0, -1) if size % part == 0), None)


class Attempts:
    """The retries of one run: whether it is restarted after a failure, and with which micro-batch size.

    micro_batch_size: the size to start with.
    """

    def __init__(self, record: RunFolder, micro_batch_size: int) -> None:
        self._record, self.micro_batch_size = record, micro_batch_size
        self._counts: Counter[Failure] = Counter()
        self._reached = self._progress()

    def again(self, outcome: Outcome) -> bool:
        """Whether to run again after this outcome. Prepares the next attempt."""
        if not outcome.failed:
            return False
        assert outcome.status != "finished"
        assert outcome.status != "paused"
        policy = POLICIES[outcome.status]
        reached, before = self._progress(), self._reached
        if reached != before:
            self._reached = reached
            self._counts["lost"] = self._counts["preempted"] = 0
        self._counts[outcome.status] += 1
        if self._counts[outcome.status] > policy.retries:
            return False
        return self._halve() if policy.smaller_batch else True

    def _halve(self) -> bool:
        smaller = smaller_micro_batch(self.micro_batch_size)
        if smaller is None:
            return False
        self.micro_batch_size = smaller
        # From its first step: results must be those of a run with this size throughout.
        for part in self._record.parts():
            remove(part.checkpoint)
        return True

    def _progress(self) -> list[str]:
        """A value that changes with every checkpoint and with every finished round."""
        files = [file for part in self._record.parts() for file in (part.checkpoint, part.path / "result.json")]
        return [version for file in files if (version := stamp(file)) is not None]


def explained(outcome: Outcome, micro_batch_size: int) -> str:
    """The reason as it is written to result.json."""
    said = {
        "out_of_memory": f"out of memory, with micro-batches of {micro_batch_size} too: ",
        "lost": "its workers died repeatedly without making progress: ",
        "preempted": "its nodes were taken away repeatedly before it made progress: ",
    }
    return said.get(outcome.status, "") + str(outcome.reason)


def hopeless(folder: SweepFolder) -> str | None:
    """Why to stop the sweep: nothing has finished, and the first configurations failed in the same way; or None."""
    failures: dict[str, RunResult] = {}
    for run in folder.runs():
        result = run.result()
        if result is not None and result.failed:
            failures[result.configuration] = result
        elif result is not None or run.rungs().rungs:  # a run that waits at a rung has not failed
            return None
    classes = {each.failure for each in failures.values()}
    # Divergence is no reason: the search learns from it.
    if len(failures) < _SAME_FAILURE or len(classes) > 1 or classes == {"diverged"}:
        return None
    reason = next(iter(failures.values())).reason
    return f"all of the first {len(failures)} configurations failed, and alike: {reason}"


def out_of_memory_kills() -> int:
    """How often the kernel has killed a process for lack of memory: in this container where it counts, else here."""
    for path, key in (("/sys/fs/cgroup/memory.events", "oom_kill"), ("/proc/vmstat", "oom_kill")):
        try:
            lines = Path(path).read_text().splitlines()
        except OSError:
            continue
        for name, _, count in (line.partition(" ") for line in lines):
            if name == key:
                return int(count)
    return 0


def failure_record(outcome: Outcome, micro_batch_size: int) -> dict[str, Any]:
    """The part of result.json that describes a failure."""
    assert outcome.status != "finished"
    assert outcome.status != "paused"
    reason = explained(outcome, micro_batch_size)
    return {"status": POLICIES[outcome.status].status, "reason": reason, "failure": outcome.status}
