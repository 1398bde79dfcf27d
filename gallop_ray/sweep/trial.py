"""A Tune trial: one configuration, a thin client that leases a slot and runs the seeds in it one after another."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError

from gallop_ray.spec.configuration import asked
from gallop_ray.spec.schema import Configuration, Sweep
from gallop_ray.sweep.gate import Gate
from gallop_ray.sweep.jobs import Outcome, RunJob
from gallop_ray.sweep.pruning import reason_to_prune
from gallop_ray.sweep.study import objective
from gallop_ray.tracking.records import ConfigurationFolder, RunFolder, SweepFolder

_ATTEMPTS = 3  # how often a run is begun that loses its workers
CPUS = 0.001
"""Of a trial: it only waits."""


@dataclass(frozen=True)
class TrialContext:
    """What every trial of a sweep needs."""

    sweep: str
    folder: Path
    pool: Any
    deadline: float | None


class ConfigurationTrial(tune.Trainable):
    """Each step is one seed. Reused from configuration to configuration, to save the actor's start."""

    def setup(self, config: dict[str, Any], context: TrialContext | None = None) -> None:
        """Called once an actor; `config` holds the configuration's key."""
        assert context is not None
        self._sweep = Sweep.model_validate_json(context.sweep)
        self._folder, self._pool = SweepFolder(context.folder), context.pool
        self._gate = Gate(self._folder, self._sweep.objective, context.deadline)
        self._lease: tuple[str, Any] | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Turn to another configuration."""
        self._configuration = self._folder.configuration(new_config["key"])
        self._seeds = [s for s in self._sweep.seeds if not self._finished(s)]
        return True

    def step(self) -> dict[str, Any]:
        """Run the next seed, if it may start; if not, the configuration is left for the next start of the sweep."""
        try:
            may_start = not self._seeds or self._gate.opens(self._configuration)
            if may_start and self._seeds:
                self._run(self._seeds.pop(0))
            over = self._conclude() if may_start else True
        except BaseException:
            self._return_slot(alive=True)
            raise
        if over:
            self._return_slot(alive=True)
        return {"done": over}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the run folders are the memory."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see save_checkpoint."""

    def cleanup(self) -> None:
        """Called when the actor ends."""
        self._return_slot(alive=True)

    def _finished(self, seed: int) -> bool:
        return (self._configuration.run(seed).result() or {}).get("status") == "finished"

    def _run(self, seed: int) -> None:
        record = self._configuration.run(seed)
        for _ in range(_ATTEMPTS):
            name, outcome = self._execute(RunJob(self._configuration.key, seed))
            if outcome.status != "lost":
                break
            self._return_slot(alive=True)  # the pool finds out whether it still is
        identity = {"configuration": self._configuration.key, "slot": name}
        if outcome.status == "finished":
            record.finish({**identity, "status": "finished", "reason": None, **outcome.result})
        else:
            self._record_failure(record, seed, identity, outcome)
        self._folder.append_result(record)

    def _record_failure(self, record: RunFolder, seed: int, identity: dict[str, Any], outcome: Outcome) -> None:
        configuration = Configuration.model_validate(self._configuration.configuration())
        status = "diverged" if outcome.status == "diverged" else "failed"
        if not record.metrics.exists():
            record.start({"configuration": configuration.model_dump(mode="json")}, identity["slot"])
        record.finish({**identity, "status": status, "reason": outcome.reason, **asked(configuration, seed)})

    def _execute(self, job: RunJob) -> tuple[str, Outcome]:
        if self._lease is None:
            self._lease = ray.get(self._pool.lease.remote())
        name, slot = self._lease
        try:
            return name, ray.get(slot.execute.remote(job))
        except RayActorError as error:
            self._return_slot(alive=False)
            return name, Outcome("lost", f"the slot died: {error}")

    def _return_slot(self, alive: bool) -> None:
        if self._lease is not None:
            name, self._lease = self._lease[0], None
            ray.get(self._pool.give_back.remote(name, alive))

    def _conclude(self) -> bool:
        """Write how the configuration stands; whether it is over."""
        results = self._configuration.results()
        bad = [r for r in results if r["status"] != "finished"]
        done = [r for r in results if r["status"] == "finished"]
        seeds = [r["seed"] for r in done]
        value = objective(self._configuration, self._sweep.objective.metric) if done else None
        if bad:
            self._configuration.write_status(bad[0]["status"], seeds, value, bad[0]["reason"])
        elif not self._seeds:
            self._configuration.write_status("finished", seeds, value)
        elif reason := reason_to_prune(self._sweep.pruning, self._sweep.objective, done, self._others()):
            self._configuration.write_status("pruned", seeds, value, reason)
        else:
            self._configuration.write_status("running", seeds, value)
            return False
        return True

    def _others(self) -> list[list[dict[str, Any]]]:
        method = self._configuration.configuration()["method"]["name"]
        return [
            _finished_runs(c)
            for c in self._folder.configurations()
            if c.key != self._configuration.key and c.configuration()["method"]["name"] == method
        ]


def _finished_runs(configuration: ConfigurationFolder) -> list[dict[str, Any]]:
    return [dict(r) for r in configuration.results() if r["status"] == "finished"]
