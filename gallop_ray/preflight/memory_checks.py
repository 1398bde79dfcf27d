"""Whether slots and runs fit this machine: its CPUs, GPUs and memory."""

import math
from collections.abc import Iterator
from operator import itemgetter

import torch

from gallop_ray.preflight.findings import Finding, gigabytes, ok, problem, warning
from gallop_ray.preflight.machine_checks import host_memory, usable_cpus
from gallop_ray.preflight.plan import estimates, held_at_most, no_estimate, reach
from gallop_ray.spec.plan import plan_sweep
from gallop_ray.spec.schema import Sweep

_TIGHT = 0.8


def slots(sweep: Sweep) -> Iterator[Finding]:
    """Whether a slot fits this machine, and its runs the memory of its workers."""
    asked, gpus = sweep.resources, torch.cuda.device_count()
    if gpus and not asked.gpus_per_worker:
        text = f"resources.gpus_per_worker is 0: the sweep runs on the CPU, although this machine has {gpus} GPUs"
        yield warning(text, "Give resources: {gpus_per_worker: 1}, or a part of 1 for slots that share a GPU")
    cpus, workers = usable_cpus(), asked.workers_per_slot
    cpus_needed, gpus_needed = workers * asked.cpus_per_worker, workers * asked.gpus_per_worker
    if cpus_needed > cpus or gpus_needed > gpus:
        text = f"a slot needs {cpus_needed:g} CPUs and {gpus_needed:g} GPUs, this machine has {cpus} and {gpus}"
        fix = "Lower resources.workers_per_slot, cpus_per_worker or gpus_per_worker, or name a cluster in RAY_ADDRESS"
        yield problem(text, fix)
        return
    fitting = [cpus // cpus_needed] + ([gpus // gpus_needed] if gpus_needed else [])
    at_once = min(int(min(fitting)), plan_sweep(sweep, None).configurations)
    at_once = at_once if asked.slots == "auto" else min(at_once, asked.slots)
    yield from _memory(sweep, at_once)


def _memory(sweep: Sweep, at_once: int) -> Iterator[Finding]:
    asked = sweep.resources
    try:
        rows = list(estimates(sweep))
    except ValueError as error:
        yield problem(str(error), "Change the method's options")
        return
    for each in dict.fromkeys(no_estimate(row[2]) for row in rows if row[2].unknown):
        yield warning(f"memory: {each}", "Watch the first run, or lower training.micro_batch_size")
    yield from map(ok, reach(sweep))
    workers, on_gpus = asked.workers_per_slot * at_once, asked.gpus_per_worker > 0
    if on_gpus:
        name, _, most = max(rows, key=lambda row: row[2].total)
        room = min(torch.cuda.get_device_properties(n).total_memory for n in range(torch.cuda.device_count()))
        room = int(room * min(1.0, asked.gpus_per_worker))
        yield _fits(f"{name} needs most: {gigabytes(most.total)} of a GPU's {gigabytes(room)}", most.total / room)
    name, need = max(((row[0], row[2].offloaded + (0 if on_gpus else row[2].total)) for row in rows), key=itemgetter(1))
    paused = held_at_most(sweep)
    if need or paused:
        available = host_memory()[1]
        text = f"{name} needs most: workers at once {workers} x {gigabytes(need)}"
        text += f", paused runs {at_once} x {gigabytes(paused)}" if paused else ""
        share = (workers * need + at_once * paused) / available
        yield _fits(f"{text}, available {gigabytes(available)}", share)


def _fits(text: str, share: float) -> Finding:
    if share <= _TIGHT:
        return ok(text)
    fix = (
        "Lower training.micro_batch_size or resources.slots, switch training.gradient_checkpointing on, or raise "
        "deepspeed.zero_stage and resources.workers_per_slot"
    )
    return (problem if share > 1 else warning)(f"{text}: {'too much' if share > 1 else 'tight'}", fix)


def presets() -> Iterator[Finding]:
    """Which of the known models this machine can fine-tune, with one worker, or with all GPUs and ZeRO-3."""
    gpus = torch.cuda.device_count()
    room = torch.cuda.get_device_properties(0).total_memory if gpus else host_memory()[1]
    sizes = sorted({1, gpus} - {0})
    for name in ("pocket", "smollm2-135m", "google/gemma-2b", "meta-llama/Meta-Llama-3-8B"):
        said = []
        for method in ("gallop", "full"):
            needs = {workers: _need(name, method, workers, bool(gpus)) for workers in sizes}
            size = next((workers for workers in sizes if needs[workers] <= room), None)
            what = "does not fit" if size is None else "fits" if size == 1 else f"fits on {size} GPUs with ZeRO-3"
            said.append(f"{method} {what} ({gigabytes(needs[size or sizes[-1]])})")
        yield ok(f"{name} in {gigabytes(room)}: {', '.join(said)}")


def _need(name: str, method: str, workers: int, gpu: bool) -> int:
    """Bytes per worker with the defaults and micro-batches of 4."""
    sweep = Sweep.model_validate(
        {
            "name": "fits",
            "model": {"name": name, "dtype": "bfloat16" if gpu else "float32"},
            "data": {"root": "generated", "train": "range"},
            "methods": [{"type": method}],
            "training": {"micro_batch_size": 4, "batch_size": 4 * workers},
            "resources": {"workers_per_slot": workers},
            "deepspeed": {"zero_stage": 3 if workers > 1 else 1},
        }
    )
    return math.ceil(max(estimate.total for *_, estimate in estimates(sweep)))
