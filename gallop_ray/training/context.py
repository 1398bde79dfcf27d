"""What all parts of a run share: its reporter, and the clock of its phases."""

import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from gallop_ray.spec.plan import optimizer_steps
from gallop_ray.spec.schema import Configuration
from gallop_ray.spec.training import TrainingSpec
from gallop_ray.tasks.progress import Report, now_and_then
from gallop_ray.training.batches import micro_steps
from gallop_ray.training.resident import LoadedModel


class Reporter(Protocol):
    """Receives what happens in one run."""

    @property
    def adapter(self) -> Path:
        """The path of the trained adapter."""
        ...

    @property
    def checkpoint(self) -> Path:
        """The path of the run's checkpoint."""
        ...

    def event(self, event: str, **fields: Any) -> None:
        """Record an event with its fields."""
        ...


class NullReporter:
    """The reporter of every rank but the first."""

    def __init__(self, adapter: Path) -> None:
        self.adapter = adapter
        self.checkpoint = adapter.parent / "checkpoint.safetensors"

    def event(self, event: str, **fields: Any) -> None:
        """Discard the event."""


Phase = Literal["scoring", "selecting", "attaching", "training", "evaluating", "swapping", "saving"]


class Phases:
    """Seconds per phase of one run, and the process's peak memory since it began."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._begun = time.perf_counter()
        self.started = time.time()
        self.seconds: dict[str, float] = {}
        self._forwarded = False
        self._present: Phase | None = None
        self._since = self._begun
        self.progress: Report = now_and_then(self._report)
        """Says how far a phase is."""
        self._peak = 0
        _reset_peak_memory()

    def _report(self, done: int, total: int, what: str) -> None:
        self._reporter.event("progress", done=done, total=total, what=what)

    def take_up(self, seconds: Mapping[str, float], peak: int, started: float) -> None:
        """Count what a run had needed when it was paused, of which `total` is all."""
        self.seconds = {name: spent for name, spent in seconds.items() if name != "total"}
        self._begun -= seconds["total"]
        self._peak, self.started = peak, started

    def first_forward(self) -> None:
        """Note the run's first forward pass; later calls do nothing."""
        if not self._forwarded:
            self._forwarded = True
            self._reporter.event("first_forward")

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Count the time inside towards a phase, not towards a surrounding one; a phase may be entered repeatedly."""
        around = self._turn_to(name)
        try:
            yield
        finally:
            self._turn_to(around)

    def _turn_to(self, name: Phase | None) -> Phase | None:
        """End the present phase and begin this one. Returns the one that ended."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # else what this phase has given to the GPU would count towards the next
        now, before = time.perf_counter(), self._present
        if before is not None:
            self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._present, self._since = name, now
        if name is not None:
            self._reporter.event("phase", phase=name)
        return before

    def total(self) -> dict[str, float]:
        """Seconds by phase up to now, and `total`."""
        seconds = {**self.seconds, "total": time.perf_counter() - self._begun}
        return {name: round(s, 4) for name, s in seconds.items()}

    def record(self) -> dict[str, object]:
        """Times and peak memory, as they stand in result.json."""
        return {
            "seconds": self.total(),
            "peak_memory_bytes": max(self._peak, _peak_memory()),
            "started": self.started,
            "ended": time.time(),
        }


def _reset_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM, which else covers all runs of the worker
    except OSError:
        return


def _peak_memory() -> int:
    """Bytes: of the GPU's allocator where there is one, else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # in kB
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@dataclass(frozen=True)
class RunContext:
    """One run: a configuration with one seed, on a loaded model."""

    resident: LoadedModel
    configuration: Configuration
    seed: int
    reporter: Reporter
    phases: Phases

    @cached_property
    def micro_steps(self) -> int:
        """Micro-batches of each rank in an optimizer step."""
        examples = self.resident.epoch
        return micro_steps(examples, self.training, self.seed, optimizer_steps(self.training, len(examples)))

    def at_density(self, trained: int) -> "RunContext":
        """The same run with the learning rate that its law gives for so many trained entries."""
        if not (self.training.density_exponent and trained):
            return self
        density = trained / self.resident.parameters
        rate = self.training.learning_rate * density**self.training.density_exponent
        return self.trained_with(learning_rate=rate, density_exponent=0.0)

    def trained_with(self, **changes: Any) -> "RunContext":
        """The same run with other training options."""
        training = self.training.model_copy(update=changes)
        return replace(self, configuration=self.configuration.model_copy(update={"training": training}))

    @property
    def training(self) -> TrainingSpec:
        """The training options of its configuration."""
        return self.configuration.training
