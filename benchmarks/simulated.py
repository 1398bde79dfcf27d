"""A slot that trains nothing: it writes to the run folders what rank 0 of a real slot's workers writes."""

from pathlib import Path
from typing import Any

import ray

from gallop_ray.records.environment import environment_record
from gallop_ray.records.folders import SweepFolder
from gallop_ray.slots.jobs import Job, Outcome, RunJob
from gallop_ray.spec.configuration import asked
from gallop_ray.spec.schema import Configuration
from gallop_ray.tasks.metrics import accuracies, summarize

STEPS, LAYERS, EXAMPLES = 10, 4, 200
TASK, OTHER = "range", "max"
_PHASES = ("scoring", "selecting", "attaching", "training", "evaluating", "saving")
_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _correct(share: float) -> dict[str, Any]:
    """What a model answers right that is right on this share."""
    right = round(share * EXAMPLES)
    ways = dict.fromkeys(("likelihood", "generated"), "1" * right + "0" * (EXAMPLES - right))
    return {task: {"validation": ways, "test": ways} for task in (TASK, OTHER)}


@ray.remote(num_cpus=0)
class SimulatedSlot:
    """Answers jobs at once."""

    def __init__(self, folder: str) -> None:
        self._folder = SweepFolder(Path(folder))

    def execute(self, job: Job) -> Outcome:
        """What a worker does, without a model."""
        if not isinstance(job, RunJob):
            return Outcome("finished", result={"correct": _correct(0.5), "outputs": {}, "text_loss": None})
        folder = self._folder.configuration(job.configuration)
        configuration, record = Configuration.model_validate(folder.configuration().sections()), folder.run(job.seed)
        spec = asked(configuration, job.seed)
        record.start({"configuration": configuration.model_dump(mode="json"), **spec}, "slot-0")
        record.write("environment", environment_record())
        for phase in _PHASES:
            record.event("phase", phase=phase)
            for step in range(1, STEPS + 1) if phase == "training" else ():
                record.event("step", step=step, steps=STEPS, loss=1 / step, learning_rate=1e-3, grad_norm=1.0)
        names = [f"model.layers.{layer}.{module}" for layer in range(LAYERS) for module in _MODULES]
        record.write("mask", {"chosen": 10 * len(names), "matrices": {name: [10, 1000] for name in names}})
        correct = _correct(0.5 + 100 * configuration.training.learning_rate)
        record.write("correct", correct)
        record.write("outputs", {})
        measured = accuracies(correct)
        return Outcome(
            "finished",
            result={
                **spec,
                "trained_parameters": 10 * len(names),
                "density": 0.01,
                "trainable_percent": 1.0,
                "steps": STEPS,
                "train_loss": 0.1,
                **summarize(measured, accuracies(_correct(0.5)), TASK, (OTHER,)),
                "tasks": measured,
                "seconds": dict.fromkeys(("total", *_PHASES), 0.0),
            },
        )


@ray.remote(num_cpus=0)
class SimulatedPool:
    """One simulated slot, leased as a real pool leases its own."""

    def __init__(self, folder: str) -> None:
        slot: Any = SimulatedSlot
        self._slot = slot.remote(folder)

    async def lease(self, lessee: str | None = None) -> tuple[str, Any]:
        """The slot."""
        return "slot-0", self._slot

    async def give_back(self, name: str) -> None:
        """Nothing: there is one trial at a time."""

    async def size(self) -> int:
        """One slot."""
        return 1

    async def shrink(self, left: int) -> None:
        """Nothing: the slot stays."""

    async def stop(self) -> None:
        """Nothing: the slot ends with Ray."""


def start_simulated_pool(most: int, sweep: str, folder: str) -> Any:
    """In the place of gallop_ray.slots.pool.start_pool."""
    pool: Any = SimulatedPool
    return pool.remote(folder)
