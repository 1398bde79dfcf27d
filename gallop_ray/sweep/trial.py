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
from gallop_ray.sweep.pruning import Contestant, reason_to_prune
from gallop_ray.tracking.records import CONFIRMATION, SEARCH, ConfigurationFolder, RunFolder, SweepFolder
from gallop_ray.tracking.summary import objective_value

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
        self._stage = new_config.get("stage", SEARCH)
        self._seeds = [s for s in self._all_seeds() if not self._finished(s)]
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

    def _all_seeds(self) -> tuple[int, ...]:
        if self._stage != CONFIRMATION:
            return self._sweep.seeds
        assert self._sweep.confirmation is not None
        return self._sweep.confirmation.seeds

    def _finished(self, seed: int) -> bool:
        return (self._configuration.run(seed).result() or {}).get("status") == "finished"

    def _run(self, seed: int) -> None:
        record = self._configuration.run(seed)
        for _ in range(_ATTEMPTS):
            name, outcome = self._execute(RunJob(self._configuration.key, seed))
            if outcome.status != "lost":
                break
            self._return_slot(alive=True)  # the pool finds out whether it still is
        identity = {"configuration": self._configuration.key, "stage": self._stage, "slot": name}
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
        """Write how the configuration stands in the search; whether the trial is over."""
        if self._stage == CONFIRMATION:
            return not self._seeds
        results = self._configuration.results()
        bad = [r for r in results if r["status"] != "finished"]
        done = [r for r in results if r["status"] == "finished"]
        seeds = [r["seed"] for r in done]
        value = objective_value(done, self._sweep.objective)
        if bad:
            self._configuration.write_status(bad[0]["status"], seeds, value, bad[0]["reason"])
        elif not self._seeds:
            self._configuration.write_status("finished", seeds, value)
        elif reason := self._reason_to_prune():
            self._configuration.write_status("pruned", seeds, value, reason)
        else:
            self._configuration.write_status("running", seeds, value)
            return False
        return True

    def _reason_to_prune(self) -> str | None:
        if self._sweep.pruning.type == "none":
            return None
        mine, method = self._configuration, self._configuration.configuration()["method"]["name"]
        others = [c for c in self._folder.configurations() if c.key != mine.key]
        same = [c for c in others if c.configuration()["method"]["name"] == method]
        return reason_to_prune(self._sweep, self._contestant(mine), [self._contestant(c) for c in same])

    def _contestant(self, configuration: ConfigurationFolder) -> Contestant:
        finished = {r["seed"]: r for r in configuration.results() if r["status"] == "finished"}
        metric = self._sweep.objective.metric
        values = {seed: finished[seed][metric] for seed in self._sweep.seeds if seed in finished}
        return Contestant(configuration.key, values, lambda seed: configuration.run(seed).read("correct") or {})
