"""A Tune trial: one configuration, a thin client that leases a slot and runs the seeds in it one after another.

Where configurations climb rungs, a trial is one rung of one configuration.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune

from gallop_ray.disk.bucket.lease import borrow
from gallop_ray.disk.bucket.tree import flush, pull
from gallop_ray.disk.trouble import NO_SPACE, is_storage_trouble
from gallop_ray.errors import Halted
from gallop_ray.records.folders import ConfigurationFolder, SweepFolder
from gallop_ray.records.own_metrics import use_metrics
from gallop_ray.records.results import CONFIRMATION, SEARCH, RunResult
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.records.summary import objective_value
from gallop_ray.search.pruning import Contestant, reason_at_rung, reason_to_prune
from gallop_ray.search.rungs import AtRung
from gallop_ray.slots.failures import POLICIES, Attempts, failure_record, hopeless
from gallop_ray.slots.jobs import Outcome, RunJob, execute_in
from gallop_ray.spec.configuration import asked
from gallop_ray.spec.registry import STORED
from gallop_ray.spec.rungs import Rung
from gallop_ray.spec.schema import Configuration, Sweep
from gallop_ray.sweep.admission import Admission, free_bytes, keep_best, needed_bytes, shortage
from gallop_ray.sweep.give_up import end, give_up
from gallop_ray.sweep.stop import HALTED, MISTAKE, WARNING, no_space, refused_by_storage
from gallop_ray.tasks.metrics import Correct

_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class TrialContext:
    """What every trial of a sweep needs."""

    sweep: str
    folder: Path
    pool: Any
    deadline: float | None
    variables: Mapping[str, str] = field(default_factory=dict)


class ConfigurationTrial(tune.Trainable):
    """Each step is one seed. Tune reuses the actor for the next configuration, which saves its start."""

    def setup(self, config: dict[str, Any], context: TrialContext | None = None) -> None:
        """Called once per actor; `config` holds the configuration's key."""
        assert context is not None
        # STORED: a trial runs no method, so it need not import the user's. Metrics it compares by.
        self._sweep = Sweep.model_validate_json(context.sweep, context=STORED)
        self._folder, self._pool = SweepFolder(context.folder), context.pool
        os.environ.update(context.variables)
        borrow(self._folder.path)
        use_metrics(self._folder, self._sweep.evaluation.metrics)
        self._gate = Admission(self._folder, self._sweep.objective, context.deadline)
        self._lease: tuple[str, Any] | None = None
        self._needed = 0.0
        self._warning: str | None = None
        self._stripped: set[str] = set()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Switch to another configuration. Returns True, which Tune requires for reusing an actor."""
        self._configuration = self._folder.configuration(new_config["key"])
        self._stage = new_config.get("stage", SEARCH)
        rung = new_config.get("rung")
        self._rung = None if rung is None else Rung(*rung)
        self._seeds = [s for s in self._all_seeds() if not self._finished(s)]
        return True

    def step(self) -> dict[str, Any]:
        """Run the next seed, if it may start; otherwise the configuration is left to the next start of the sweep."""
        try:
            may_start = not self._seeds or self._gate.may_start(self._configuration, self._share())
            if may_start and self._seeds:
                self._run(self._seeds.pop(0))
            over = self._conclude() if may_start else True
        except (Halted, OSError) as error:
            self._return_slot()
            if not (isinstance(error, Halted) or is_storage_trouble(error)):
                raise
            # As a result: an exception would be this trial's failure to Tune, and the sweep would go on.
            halt = refused_by_storage(self._folder, self._sweep.retention, self._needed, error)
            return {"done": True, HALTED: str(halt), MISTAKE: halt.mistake}
        except BaseException:
            self._return_slot()
            raise
        if over:
            self._return_slot()
            if self._sweep.retention.adapters == "best":
                keep_best(self._folder, self._sweep, self._stripped)
        return {"done": over, WARNING: self._warning}

    def _share(self) -> float:
        """The share of a run that a rung of steps asks for, at most."""
        if self._rung is None or self._rung.at is None:
            return 1.0
        steps = self._configuration.configuration().training.get("steps")
        return min(1.0, self._rung.at / steps) if steps and isinstance(self._rung.at, int) else min(1.0, self._rung.at)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the run folders are the memory."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see save_checkpoint."""

    def cleanup(self) -> None:
        """Called when the actor ends."""
        self._return_slot()

    def _all_seeds(self) -> tuple[int, ...]:
        if self._stage != CONFIRMATION:
            return self._sweep.seeds if self._rung is None else self._sweep.seeds[: max(1, self._rung.seeds)]
        assert self._sweep.confirmation is not None
        return self._sweep.confirmation.seeds

    def _finished(self, seed: int) -> bool:
        result = self._configuration.run(seed).result()
        return result is not None and result.finished

    def _run(self, seed: int) -> None:
        record = self._configuration.run(seed)
        self._look_for_space()
        attempts = Attempts(record, self._micro_batch_size())
        while True:
            rung = self._rung if self._rung is not None and self._rung.at is not None else None
            name, outcome = self._execute(RunJob(self._configuration.key, seed, attempts.micro_batch_size, rung))
            pull(record.path)  # of a bucket: the workers may have written it on another node
            if not attempts.again(outcome):
                break
        if self._finished(seed):
            return  # by a trial that Ray took for dead while its process lived on without its node
        if outcome.status == "paused":
            assert rung is not None
            record.pause({"rung": rung.at, **outcome.result, "micro_batch_size": attempts.micro_batch_size})
            flush(record.path)
            self._needed = max(self._needed, needed_bytes(record))
            return
        self._record(record, name, outcome, attempts)
        self._folder.append_result(record)
        self._needed = max(self._needed, needed_bytes(record))
        if outcome.failed and (reason := hopeless(self._folder)):
            self._conclude()
            raise Halted(reason, mistake=outcome.status == "refused")

    def _look_for_space(self) -> None:
        """Raise Halted before a run for which there is no space, judged by what this actor's runs have needed."""
        if self._needed:
            free = free_bytes(self._folder, self._sweep.retention)
            if free < self._needed:
                raise no_space(self._folder, self._sweep.retention, self._needed)
            self._warning = shortage(free, self._needed)

    def _micro_batch_size(self) -> int:
        """The configured size, or what an earlier seed, or rung, was reduced to when it ran out of memory."""
        ended = [each for each in self._configuration.results() if each.finished]
        known = [*ended, *self._configuration.run(self._sweep.seeds[0]).rungs().rungs]
        sizes = [each.micro_batch_size for each in known if each.micro_batch_size]
        asked_for = int(self._configuration.configuration().training["micro_batch_size"])
        return min(sizes, default=asked_for)

    def _record(self, record: RunFolder, slot: str, outcome: Outcome, attempts: Attempts) -> None:
        """Write how a run ended. Raises Halted for a full disk, which leaves the run pending."""
        identity = {"configuration": self._configuration.key, "stage": self._stage, "slot": slot}
        if outcome.status == "finished":
            end = {"status": "finished", "reason": None, "failure": None, "attempts": record.attempt()}
            record.finish({**identity, **end, **outcome.result})
            return
        assert outcome.status != "paused"
        if POLICIES[outcome.status].stops_sweep:
            # By the text: the error was raised in another process.
            if NO_SPACE in str(outcome.reason):
                raise no_space(self._folder, self._sweep.retention, self._needed)
            raise Halted(str(outcome.reason))
        configuration = Configuration.model_validate(self._configuration.configuration().sections(), context=STORED)
        if not record.metrics.exists():
            record.start({"configuration": configuration.model_dump(mode="json")}, slot)
        end = {**failure_record(outcome, attempts.micro_batch_size), "attempts": record.attempt()}
        size = {"micro_batch_size": attempts.micro_batch_size}
        record.finish({**identity, **end, **asked(configuration, record.seed), **size})

    def _execute(self, job: RunJob) -> tuple[str, Outcome]:
        if self._lease is None:
            self._await_base()
            me, rather = ray.get_runtime_context().get_actor_id(), None
            if self._rung is not None:  # the slot that put it aside has it in memory
                rather = self._configuration.run(job.seed).last_slot()
            lease = ray.get(self._pool.lease.remote(me, rather))
            if isinstance(lease, str):
                raise Halted(f"no slot can be started any more: {lease}")
            self._lease = lease
        name, slot = self._lease
        outcome = execute_in(slot, job)
        if outcome.failed:
            self._return_slot()  # its workers may have to restart, and another slot may be free
        return name, outcome

    def _await_base(self) -> None:
        """Wait for the driver's measurement of the base model; if that fails, the driver ends this actor."""
        while self._folder.base() is None:
            time.sleep(_LOOK_SECONDS)

    def _return_slot(self) -> None:
        if self._lease is not None:
            name, self._lease = self._lease[0], None
            ray.get(self._pool.give_back.remote(name))

    def _conclude(self) -> bool:
        """Write the configuration's status in the search. Returns whether the trial is over."""
        if self._stage == CONFIRMATION:
            return not self._seeds
        results = self._configuration.results()
        bad = not all(each.finished for each in results)
        done = [each for each in results if each.finished]
        seeds = [each.seed for each in done]
        value = objective_value(done, self._sweep.objective)
        if bad or (not self._seeds and (self._rung is None or set(self._sweep.seeds) <= set(seeds))):
            end(self._sweep, self._configuration)
        elif reason := self._reason_to_prune():
            give_up(self._sweep, self._folder, self._configuration, reason)
        elif not self._seeds and not self._configuration.status().over:  # the driver says whether it continues
            self._configuration.write_status("waiting", seeds, value)
        elif not self._configuration.status().over:  # it is if this trial was taken for dead, and another ended it
            self._configuration.write_status("running", seeds, value)
            return False
        return True

    def _reason_to_prune(self) -> str | None:
        if self._sweep.pruning.type == "none":
            return None
        mine = self._configuration
        same = [c for c in self._folder.configurations() if c.method == mine.method and c.key != mine.key]
        results = {each: each.results() for each in same}
        # What has failed cannot be chosen instead, however well it stands.
        rivals = [each for each in same if not any(result.failed for result in results[each])]
        if self._rung is not None and self._rung.at is not None:
            here = self._at_rung(mine, self._rung.at)
            others = [found for each in rivals if (found := self._at_rung(each, self._rung.at))]
            reason = None if here is None else reason_at_rung(self._sweep, mine.method, here, others)
            return None if reason is None or here is None else f"stopped early at step {here.step}: {reason}"
        try:
            contestants = [self._contestant(each, results[each]) for each in rivals]
            return reason_to_prune(self._sweep, self._contestant(mine, mine.results()), contestants)
        except ValueError as error:  # of a rule of the user's; finished runs are not lost for it
            self._warning = f"{error}; {mine.key} is not pruned"
            return None

    def _at_rung(self, configuration: ConfigurationFolder, rung: float) -> AtRung | None:
        judged = configuration.run(self._sweep.seeds[0]).rungs().at(rung)
        return None if judged is None else AtRung(configuration.key, judged.step, judged.loss, judged.losses)

    def _contestant(self, configuration: ConfigurationFolder, results: Sequence[RunResult]) -> Contestant:
        metric = self._sweep.objective.racing.metric
        finished = {each.seed: each.value(metric) for each in results if each.finished}
        values = {seed: value for seed in self._sweep.seeds if (value := finished.get(seed)) is not None}
        return Contestant(configuration.key, values, lambda seed: _correct(configuration.run(seed)))


def _correct(run: RunFolder) -> Correct:
    found = run.read("correct")
    assert found is not None, f"{run.path} has finished without correct.json"
    return found
