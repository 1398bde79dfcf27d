"""What a slot's workers do: load the base model once, then run one job after another until the slot stops.

All ranks run the same jobs. A failure that all ranks report together is an answer; any other exception takes the worker
group down, and Ray Train restarts it.
"""

import os
import socket
import time
import traceback
import uuid
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed

from gallop_ray.compat.probe import WORKER, probe_all
from gallop_ray.disk.bucket.address import placed
from gallop_ray.disk.bucket.tree import share
from gallop_ray.disk.trouble import described_trouble
from gallop_ray.methods import make_method
from gallop_ray.methods.hybrid import Hybrid
from gallop_ray.methods.peft import PeftMethod
from gallop_ray.records.code import use_code
from gallop_ray.records.environment import environment_record
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.identity import begun as begun_at
from gallop_ray.records.identity import settle
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.records.scores import scores_folder
from gallop_ray.records.slots import note_loaded
from gallop_ray.slots.copies import bring, bring_run, sent
from gallop_ray.slots.failures import classify, out_of_memory_kills
from gallop_ray.slots.jobs import BaseJob, Job, Outcome, RunJob
from gallop_ray.slots.nodes import not_seen
from gallop_ray.slots.rounds import execute_rounds
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.memory import free_memory
from gallop_ray.sparse.weights import all_ranks
from gallop_ray.spec.configuration import asked, variants
from gallop_ray.spec.machine import ResourcesSpec
from gallop_ray.spec.method import MaskMethodSpec
from gallop_ray.spec.plan import optimizer_steps
from gallop_ray.spec.schema import Configuration, Sweep
from gallop_ray.tasks.progress import now_and_then
from gallop_ray.training.attach import try_to_attach
from gallop_ray.training.context import NullReporter
from gallop_ray.training.optimizers import try_trainings
from gallop_ray.training.pause import Judged
from gallop_ray.training.resident import LoadedModel, load_base_model
from gallop_ray.training.run import execute_until, look, measure_base


def serve(config: Mapping[str, Any]) -> None:
    """The training function of a slot's Ray Train run."""
    slot, rank, begun = config["slot"], ray.train.get_context().get_world_rank(), time.perf_counter()
    os.environ.update(ray.get(slot.variables.remote()))
    folder = SweepFolder(placed(config["folder"]))
    try:
        bring(folder)
    except OSError as error:
        ray.get(slot.refuse.remote(f"node {socket.gethostname()}: {described_trouble(error)}"))
        return
    if not folder.exists():  # a node that has come since all were asked; it would write into a folder of its own
        ray.get(slot.refuse.remote(not_seen(config["folder"])))
        return
    use_code(folder)  # first: reading the sweep imports the user's own methods
    sweep = Sweep.model_validate_json(config["sweep"])
    torch.set_num_threads(max(1, round(sweep.resources.cpus_per_worker)))
    take_gpu(sweep.resources)
    try:
        probe_all(WORKER)
        # Sweeps with the same output share their scores.
        resident = replace(load_base_model(sweep, moment=begun_at(folder)), scores=scores_folder(folder))
        settle(folder, resident.identity)
    except Exception as error:
        # Not raised: Ray Train would restart the group for ever.
        ray.get(slot.refuse.remote(str(error) if isinstance(error, ValueError | OSError) else traceback.format_exc()))
        return

    node = ray.get_runtime_context().get_node_id()
    group = _agreed_name()
    if rank == 0:
        workers, seconds = sweep.resources.workers_per_slot, time.perf_counter() - begun
        note_loaded(folder, config["name"], config["started"], sweep.model.name, workers, seconds)
    last = ray.get(slot.join.remote(rank, group, node, out_of_memory_kills()))
    while (numbered := ray.get(slot.next_job.remote(last, node, out_of_memory_kills()))) is not None:
        last, job = numbered
        outcome = sent(folder, job, _answer(resident, folder, job, config["name"], rank))
        if not ray.get(slot.answer.remote(last, rank, outcome)):
            # Other ranks may hang in a collective with this one; ending it makes Ray Train restart the group.
            raise RuntimeError(outcome.reason)


def take_gpu(resources: ResourcesSpec) -> None:
    """Use the GPU that Ray has given to this worker: workers of a node see all of the node's, and would use the first.

    Of a GPU that slots share, no more than the share: else one slot's batch is another's lack of memory.
    """
    if not resources.gpus_per_worker:
        return
    device = ray.train.torch.get_device()
    torch.cuda.set_device(device)
    os.environ["LOCAL_RANK"] = str(device.index)  # by which DeepSpeed finds the GPU
    if resources.gpus_per_worker < 1:
        torch.cuda.set_per_process_memory_fraction(resources.gpus_per_worker, device)


def _agreed_name() -> str:
    """A name for this start of the worker group, the same on every rank."""
    names = [uuid.uuid4().hex]
    torch.distributed.broadcast_object_list(names, src=0)
    return names[0]


def _answer(resident: LoadedModel, folder: SweepFolder, job: Job, slot: str, rank: int) -> Outcome:
    try:
        if isinstance(job, RunJob):
            return _run(resident, folder, job, slot, rank)
        if isinstance(job, BaseJob):
            report = None if rank else now_and_then(folder.note_base_progress)
            return Outcome("finished", result=asdict(measure_base(resident, report)))
        _check_methods(resident, begun=not all_ranks(not folder.configurations()))
        return Outcome("finished")
    except Exception as error:
        failure = classify(error)
        if failure == "failed":
            traceback.print_exc()
        said = failure in ("refused", "diverged", "base_changed")
        reason = str(error) if said else f"{type(error).__name__}: {error}"
        if failure == "storage":
            reason = described_trouble(error)
    # Only now that the exception is gone, and with it the tensors that its frames held.
    if failure == "out_of_memory":
        free_memory()
    return Outcome(failure, reason)


def _run(resident: LoadedModel, folder: SweepFolder, job: RunJob, slot: str, rank: int) -> Outcome:
    configuration_folder = folder.configuration(job.configuration)
    bring_run(folder, configuration_folder, job.seed)
    asked_for = Configuration.model_validate(configuration_folder.configuration().sections())
    training = asked_for.training.model_copy(update={"micro_batch_size": job.micro_batch_size})
    configuration = asked_for.model_copy(update={"training": training})
    record, base = configuration_folder.run(job.seed), folder.base()
    assert base is not None, "the base model is measured before the first run"
    text_loss = folder.base_text_loss()
    if rank == 0 and not record.resume(slot):
        _begin(record, asked_for, job, slot)
    share(record.path)  # so that the attempt counts, whatever becomes of this node
    if len(resident.rounds) > 1:
        result = execute_rounds(resident, configuration, job.seed, base, record, text_loss)
    else:
        reporter = record if rank == 0 else NullReporter(record.adapter)
        until = job.rung.step(optimizer_steps(training, len(resident.epoch))) if job.rung else None
        found = execute_until(until, resident, configuration, job.seed, base, reporter, text_loss)
        if isinstance(found, Judged):
            return Outcome("paused", result=asdict(found))
        result = found
        said = result.pop("predictions")
        if rank == 0:
            record.write_predictions(said, folder.base_predictions)
    if rank > 0:
        return Outcome("finished", result=result)
    for document in ("mask", "correct", "outputs"):
        record.write(document, result.pop(document))
    return Outcome("finished", result=result)


def _begin(record: RunFolder, configuration: Configuration, job: RunJob, slot: str) -> None:
    record.start({"configuration": configuration.model_dump(mode="json"), **asked(configuration, job.seed)}, slot)
    record.write("environment", environment_record())


def _check_methods(resident: LoadedModel, begun: bool) -> None:
    """Raise ValueError for what the model, torch or PEFT do not have, before anything is spent on it.

    begun: there are runs, which have shown what optimizers and searched modules do, whichever way they ended.
    """
    sweep = resident.sweep
    look(resident)
    if not begun:
        try_trainings(sweep)
    fields = ("density",) if begun else ("target_modules", "density")
    for spec in (each for method in sweep.methods for each in variants(sweep, method, *fields)):
        method: Any = make_method(spec)
        if isinstance(spec, MaskMethodSpec):
            method.quotas(find_candidates(resident.model, spec.target_modules), resident.parameters)
        elif isinstance(method, PeftMethod | Hybrid):
            try_to_attach(resident, spec)
