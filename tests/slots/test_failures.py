"""What a failure is, and what follows from it."""

import errno
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle
from safetensors.torch import save_file

from gallop_ray.errors import Diverged, Halted
from gallop_ray.mlflow_mirror.fields import failure_tags
from gallop_ray.records.files import append_line
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.results import RunResult
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.slots.failures import Attempts, classify, failure_record, hopeless, smaller_micro_batch
from gallop_ray.slots.jobs import Outcome
from gallop_ray.spec.machine import RetentionSpec
from gallop_ray.sweep.admission import free_bytes, keep_best, shortage
from gallop_ray.sweep.stop import HALTED, MISTAKE, WARNING, Watch, no_space
from tests.small_disk import mounted
from tests.training import tiny

FULL = Path("/dev/full")
"""Every write to it fails as on a full disk."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    with mounted(tmp_path / "small", megabytes=1) as folder:
        yield folder


def test_an_adapter_that_does_not_fit_on_the_disk(small_disk: Path) -> None:
    with pytest.raises(Exception, match="No space left") as error:
        save_file({"a": torch.zeros(1 << 20)}, small_disk / "adapter.safetensors")
    assert classify(error.value) == "storage"
    assert re.search(r"[01]\.\d MB are free", str(no_space(SweepFolder(small_disk), RetentionSpec(), 0)))


def test_what_is_said_of_a_full_disk_is_true_of_it(small_disk: Path) -> None:
    folder = SweepFolder(small_disk)
    assert "are free, a run needs about 5.0 MB with its checkpoints; make space" in str(
        no_space(folder, RetentionSpec(), 5e6)
    )
    enough = str(no_space(folder, RetentionSpec(), 1e3))
    assert "needs" not in enough, "what did not fit was more than that"
    subprocess.run(["mount", "-o", "remount,nr_inodes=10", small_disk], check=True)
    for number in range(9):
        (small_disk / str(number)).touch()
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "another").touch()
    assert str(no_space(folder, RetentionSpec(), 5e6)).endswith("the disk takes no more files (inodes); remove some")


@pytest.mark.parametrize(
    ("fails", "expected"),
    [
        (lambda: torch.empty(1 << 60, dtype=torch.uint8), "out_of_memory"),
        (lambda: bytearray(1 << 60), "out_of_memory"),
        (lambda: append_line(FULL, {"event": "step"}), "storage"),
        (lambda: torch.zeros(2).view(3), "failed"),
        (lambda: int("many"), "refused"),
    ],
)
def test_real_exceptions_are_told_apart(fails: Any, expected: str) -> None:
    with pytest.raises(Exception) as error:  # noqa: PT011
        fails()
    assert classify(error.value) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out_of_memory"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "storage"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "storage"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (OSError(errno.EIO, "Input/output error"), "storage"),
        (Diverged("the training loss was nan"), "diverged"),
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Connection closed by peer"), "lost"),
        (torch.distributed.DistBackendError("NCCL communicator was aborted on rank 1."), "lost"),
    ],
)
def test_exceptions_that_need_a_gpu_or_a_quota(error: Exception, expected: str) -> None:
    assert classify(error) == expected


def test_micro_batches_shrink_to_parts_that_still_divide_the_batch() -> None:
    assert [smaller_micro_batch(size) for size in (8, 6, 9, 5, 1)] == [4, 3, 3, 1, None]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = SweepFolder(tmp_path).run("random-1", 0)
    run.start({}, "slot-0")
    return run


def test_out_of_memory_halves_until_one_and_begins_anew(run: RunFolder) -> None:
    attempts, sizes = Attempts(run, 8), []
    run.checkpoint.write_text("of larger micro-batches")
    while attempts.again(Outcome("out_of_memory", "no memory")):
        sizes.append(attempts.micro_batch_size)
    assert sizes == [4, 2, 1]
    assert not run.checkpoint.exists()


def test_a_lost_run_is_given_up_only_where_it_gets_no_further(run: RunFolder) -> None:
    attempts = Attempts(run, 8)
    for step in range(10):
        run.checkpoint.write_text(str(step))
        assert attempts.again(Outcome("lost", "killed")), "it gets further each time"
    assert [attempts.again(Outcome("lost", "killed")) for _ in range(6)] == [True] * 4 + [False] * 2
    assert run.checkpoint.exists()


def test_other_failures_have_their_own_numbers_of_attempts(run: RunFolder) -> None:
    def begun(status: Any) -> int:
        attempts = Attempts(run, 8)
        return 1 + sum(1 for _ in iter(lambda: attempts.again(Outcome(status, "why")), False))

    assert {s: begun(s) for s in ("finished", "failed", "refused", "diverged", "storage")} == {
        "finished": 1,
        "failed": 2,
        "refused": 1,
        "diverged": 1,
        "storage": 1,
    }


def fail(folder: SweepFolder, key: str, outcome: Outcome) -> None:
    run = folder.configuration(key)
    run.create({})
    record = run.run(0)
    record.start({}, "slot-0")
    record.finish({"configuration": key, "seed": 0, **failure_record(outcome, 1), "attempts": record.attempt()})


def test_a_sweep_whose_first_configurations_fail_alike_is_hopeless(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    for key in ("a", "b"):
        fail(folder, key, Outcome("failed", "RuntimeError: no such device"))
        assert hopeless(folder) is None
    fail(folder, "c", Outcome("diverged", "the loss was nan"))
    assert hopeless(folder) is None, "not alike"
    fail(folder, "c", Outcome("failed", "RuntimeError: no such device"))
    assert "no such device" in str(hopeless(folder))
    waits = folder.configuration("waits")
    waits.create({})
    waiting = waits.run(0)
    waiting.start({}, "slot-0")
    waiting.pause({"rung": 10, "step": 10, "steps": 90, "loss": 0.5, "seconds": {}})
    assert hopeless(folder) is None, "one has come to a rung"
    shutil.rmtree(waits.path)
    assert hopeless(folder)
    finished = folder.configuration("d")
    finished.create({})
    finished.run(0).start({}, "slot-0")
    finished.run(0).finish({"configuration": "d", "seed": 0, "status": "finished"})
    assert hopeless(folder) is None, "one has finished"


def test_results_and_mlflow_name_the_failure(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    fail(folder, "a", Outcome("out_of_memory", "RuntimeError: can't allocate memory"))
    folder.rebuild_results()
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    for word in ('"failure": "out_of_memory"', '"attempts": 1', "micro-batches of 1 too", "can't allocate"):
        assert word in line
    assert failure_tags(folder.results()[0]).keys() == {"failure", "attempts", "reason"}
    assert failure_tags(RunResult(status="finished", attempts=2)) == {}


def test_only_the_best_configuration_of_each_method_keeps_its_adapters(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    for key, value, status in (
        ("gallop-1", 0.5, "finished"),
        ("gallop-2", 0.7, "finished"),
        ("gallop-3", 0.1, "running"),
        ("lora-1", 0.2, "finished"),
    ):
        configuration = folder.configuration(key)
        configuration.create({})
        for seed in (0, 1):
            run = configuration.run(seed)
            run.start({}, "slot-0")
            run.adapter.write_bytes(b"adapter")
            identity = {"configuration": key, "seed": seed, "method": key.split("-")[0], "status": "finished"}
            run.finish({**identity, "val_id_accuracy": value})
            folder.append_result(run)
        configuration.write_status(status, [0, 1], value)
    keep_best(folder, tiny.sweep(), set())
    kept = {run.configuration for run in folder.runs() if run.adapter.exists()}
    assert kept == {"gallop-2", "gallop-3", "lora-1"}, "the best of each method, and what still runs"


def test_adapters_are_removed_from_a_full_disk(small_disk: Path) -> None:
    """The note of it needs space, too."""
    folder = SweepFolder(small_disk)
    for key, value in (("gallop-1", 0.5), ("gallop-2", 0.7)):
        configuration = folder.configuration(key)
        configuration.create({})
        run = configuration.run(0)
        run.start({}, "slot-0")
        run.adapter.write_bytes(bytes(50_000))
        run.finish({"configuration": key, "seed": 0, "status": "finished", "val_id_accuracy": value})
        folder.append_result(run)
        configuration.write_status("finished", [0], value)
    with pytest.raises(OSError, match="No space left"):
        _fill(small_disk / "rest")
    keep_best(folder, tiny.sweep(), set())
    assert [(run.adapter.exists(), run.stripped) for run in folder.runs()] == [(False, True), (True, False)]


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as rest:
        while True:
            rest.write(bytes(4096))


def test_files_may_vanish_while_a_budget_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapter").write_bytes(bytes(3_000_000))
    (tmp_path / "draft").write_bytes(b"draft")
    walk = os.walk

    def slow_walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for found in walk(top):
            (tmp_path / "draft").unlink()  # by another process, after the folder was read
            yield found

    monkeypatch.setattr(os, "walk", slow_walk)
    assert free_bytes(SweepFolder(tmp_path), RetentionSpec(disk_gb=0.01)) == 7_000_000


def test_a_budget_counts_what_the_sweep_has_written(tmp_path: Path) -> None:
    (tmp_path / "adapter").write_bytes(bytes(3_000_000))
    free = free_bytes(SweepFolder(tmp_path), RetentionSpec(disk_gb=0.01))
    assert free == 7_000_000
    assert shortage(free, 1_000_000) is None
    assert "7.0 MB are free, a run needs up to 2.0 MB" in str(shortage(free, 2_000_000))


class Tuner:
    """As Tune runs: the callback's step before each look at results."""

    def __init__(self, watch: Watch, *results: dict[str, Any]) -> None:
        self._watch, self._results = watch, results

    def fit(self) -> None:
        cloudpickle.dumps(self._watch)  # Tune does so, whatever the callback holds
        for step, result in enumerate(self._results):
            self._watch.on_step_begin(step, [])
            self._watch.on_trial_result(step, [], None, result)
        self._watch.on_step_begin(len(self._results), [])


@pytest.mark.parametrize("mistake", [False, True])
def test_a_trial_that_finds_a_reason_stops_the_sweep(mistake: bool) -> None:
    lock, said = threading.RLock(), []

    def note(text: str) -> None:
        with lock:
            said.append(text)

    base: Future[None] = Future()
    watch = Watch(base, note)
    watch.fit(Tuner(watch, {"done": False, WARNING: "almost full"}, {"done": True, WARNING: "almost full"}))
    assert said == ["almost full"]
    with pytest.raises(Halted, match="no space") as halt:
        watch.fit(Tuner(watch, {"done": True, HALTED: "no space", MISTAKE: mistake}))
    assert halt.value.mistake is mistake


def test_a_base_model_that_cannot_be_measured_stops_the_sweep() -> None:
    base: Future[None] = Future()
    watch = Watch(base, lambda text: None)
    watch.fit(Tuner(watch, {"done": False}))
    base.set_exception(Halted("too little memory", mistake=True))
    with pytest.raises(Halted, match="too little memory") as halt:
        watch.fit(Tuner(watch, {"done": False}))
    assert halt.value.mistake
