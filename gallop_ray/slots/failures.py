"""How a run can fail, and what follows from it: the classes, their policies, and which class an exception is of."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gallop_ray.disk.trouble import is_storage_trouble
from gallop_ray.errors import Diverged
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.results import RunResult
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.slots.jobs import Failure, Outcome
from gallop_ray.sparse.memory import is_out_of_memory
from gallop_ray.training.errors import BaseChanged

_SAME_FAILURE = 3  # configurations that failed alike before any run has finished: then it is hardly theirs alone
# What a rank sees of another's death, by gloo and by NCCL.
_PEER_GONE = ("/gloo/", "NCCL", "DistBackendError", "DistNetworkError", "Connection closed by peer")


@dataclass(frozen=True)
class Policy:
    """What follows from a failure.

    retries: how often the run is begun again. Of `lost` and `preempted` only those in a row count that got no
    further than the one before.
    """

    retries: int
    status: Literal["failed", "diverged"] = "failed"
    smaller_batch: bool = False
    stops_sweep: bool = False


# A ValueError that all ranks come to is a mistake in what was asked. What concerns every configuration (data, model,
# target modules, the densities' ends, optimizer) is checked before the first run and stops the sweep there, so one that
# is left is this configuration's alone: the same message would come again, and the others continue.
POLICIES: dict[Failure, Policy] = {
    "out_of_memory": Policy(retries=64, smaller_batch=True),
    "lost": Policy(retries=5),  # nodes are also taken away without a word
    "preempted": Policy(retries=20),
    "diverged": Policy(retries=0, status="diverged"),
    "refused": Policy(retries=0),
    "failed": Policy(retries=1),
    "base_changed": Policy(retries=0),
    "storage": Policy(retries=0, stops_sweep=True),  # full, read-only, gone: every run would come to it
}


def classify(error: BaseException) -> Failure:
    """The class of an exception that ended a run on one rank."""
    if is_storage_trouble(error):
        return "storage"
    if is_out_of_memory(error):
        return "out_of_memory"
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, BaseChanged):
        # Where it cannot be restored here the workers start again, with the model loaded afresh, as after any failure.
        return "base_changed" if error.restored else "failed"
    if any(words in f"{type(error).__name__}: {error}" for words in _PEER_GONE):
        return "lost"
    return "refused" if isinstance(error, ValueError) else "failed"


def smaller_micro_batch(size: int) -> int | None:
    """The largest part of a micro-batch, at most half, into which batches divide as evenly; None below 1."""
    return next((part for part in range(size // 2, 0, -1) if size % part == 0), None)


class Attempts:
    """The retries of one run: whether it is begun again after a failure, and with which micro-batch.

    micro_batch_size: what it begins with.
    """

    def __init__(self, record: RunFolder, micro_batch_size: int) -> None:
        self._record, self.micro_batch_size = record, micro_batch_size
        self._counts: Counter[Failure] = Counter()
        self._reached = self._progress()

    def again(self, outcome: Outcome) -> bool:
        """Whether to run again after this outcome; what the next attempt needs is prepared."""
        if outcome.status == "finished":
            return False
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
        # Results are to be those of a run that began with this size.
        for part in self._record.parts():
            part.checkpoint.unlink(missing_ok=True)
        return True

    def _progress(self) -> list[int]:
        """Changes with every checkpoint, and with every round that ends."""
        files = [file for part in self._record.parts() for file in (part.checkpoint, part.path / "result.json")]
        return [file.stat().st_mtime_ns for file in files if file.exists()]


def explained(outcome: Outcome, micro_batch_size: int) -> str:
    """The reason as result.json states it."""
    said = {
        "out_of_memory": f"out of memory, with micro-batches of {micro_batch_size} too: ",
        "lost": "its workers died again and again without getting further: ",
        "preempted": "its nodes were taken away again and again before it got further: ",
    }
    return said.get(outcome.status, "") + str(outcome.reason)


def hopeless(folder: SweepFolder) -> str | None:
    """Why to stop a sweep in which nothing has finished and the first configurations failed in one and the same way."""
    failures: dict[str, RunResult] = {}
    for result in (result for run in folder.runs() if (result := run.result())):
        if result.finished:
            return None
        failures[result.configuration] = result
    classes = {each.failure for each in failures.values()}
    # From those that diverge the search learns.
    if len(failures) < _SAME_FAILURE or len(classes) > 1 or classes == {"diverged"}:
        return None
    reason = next(iter(failures.values())).reason
    return f"all of the first {len(failures)} configurations failed, and alike: {reason}"


def out_of_memory_kills() -> int:
    """How often the kernel has killed a process because memory ran out: in this container if it says so, else here."""
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
    """What result.json says of a failure."""
    assert outcome.status != "finished"
    reason = explained(outcome, micro_batch_size)
    return {"status": POLICIES[outcome.status].status, "reason": reason, "failure": outcome.status}
