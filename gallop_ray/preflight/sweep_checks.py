"""What one sweep needs: its model, its data, resources for its slots, and memory for its runs."""

import ctypes.util
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import datasets
import huggingface_hub
import torch

from gallop_ray.methods import make_method
from gallop_ray.methods.hybrid import Hybrid
from gallop_ray.methods.peft import PeftMethod
from gallop_ray.preflight.data_checks import formats, near_overlaps, overlaps, references
from gallop_ray.preflight.findings import Finding, gigabytes, ok, problem, warning
from gallop_ray.preflight.machine_checks import host_memory, usable_cpus
from gallop_ray.preflight.plan import estimates, held_at_most, no_estimate, offline, reach
from gallop_ray.search.storage import database
from gallop_ray.sparse.base_state import Structure
from gallop_ray.spec.basics import BASICS_TEXT
from gallop_ray.spec.configuration import trainings, variants
from gallop_ray.spec.plan import plan_sweep
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.secrets import hidden
from gallop_ray.spec.training import GENERATED_TEXT
from gallop_ray.tasks.chat import changes_with_time
from gallop_ray.tasks.encode import CHAT
from gallop_ray.tasks.examples import Example, TaskData
from gallop_ray.tasks.fisher import encoded_fisher, load_fisher
from gallop_ray.tasks.hub import HUB_TASKS
from gallop_ray.tasks.lengths import text_lengths, too_long
from gallop_ray.tasks.load import load_tasks, local_tasks
from gallop_ray.tasks.measuring import measuring
from gallop_ray.tasks.replay import encoded_replay, load_replay
from gallop_ray.tasks.settings import EvaluationSettings
from gallop_ray.tasks.text import hub_texts
from gallop_ray.training.engine import refuse_extra
from gallop_ray.training.model_checks import refuse_positions
from gallop_ray.training.models import hub_id, is_cached, local_tokenizer, meta_model, try_model
from gallop_ray.training.optimizers import goes_by_tensors, try_trainings
from gallop_ray.training.packing_check import packs, refuse_packing
from gallop_ray.training.presets import PRESETS, preset_folder

_SECONDS = 3.0
_LOOKED_AT = 200  # examples of a split
_TIGHT = 0.8
_FEW = 50


def model(sweep: Sweep) -> Iterator[Finding]:
    """Whether the base model is here, can be created, or can be downloaded."""
    name = sweep.model.name
    try:
        hub = hub_id(name)
    except ValueError as error:
        yield problem(str(error), "Correct model.name")
        return
    if hub is not None and not is_cached(sweep.model):
        yield _on_hub(f"model {name}", hub, "model")
    elif name in PRESETS and not preset_folder(name).exists():
        yield ok(f"model {name}: is made here at its first use, about a minute")
    else:
        yield from _loads(sweep)
    if sweep.model.dtype == "bfloat16" and not sweep.resources.gpus_per_worker:
        yield warning("model.dtype bfloat16 on the CPU: few multiply it quickly", "Give float32")
    elif sweep.model.dtype == "bfloat16" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        yield warning("model.dtype bfloat16 on a GPU that has to emulate it", "Give float32")


def _loads(sweep: Sweep) -> Iterator[Finding]:
    """Load the model as a run will, of a large one only the headers."""
    try:
        model, _ = try_model(sweep.model)
        refuse_positions(model, sweep)
        if packs(sweep) and model.device.type != "meta":
            refuse_packing(model)
    except ValueError as error:
        yield problem(str(error), "")
        return
    yield ok(f"model {sweep.model.name}: loads, {sum(p.numel() for p in model.parameters()):,} parameters")
    known = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(known, int) and sweep.training.max_length > known:
        text = f"training.max_length is {sweep.training.max_length}, the model was trained on {known} positions"
        yield warning(f"{text}: it has not seen positions beyond", f"Give {known} or less")


def _on_hub(what: str, repository: str, kind: str) -> Finding:
    cached = huggingface_hub.try_to_load_from_cache(repository, "config.json", repo_type=kind)
    if isinstance(cached, str):
        return ok(f"{what}: in the cache of the Hugging Face hub")
    ask = huggingface_hub.model_info if kind == "model" else huggingface_hub.dataset_info
    try:
        ask(repository, timeout=_SECONDS)
    except Exception as error:  # the network, a proxy, an unknown name, a gate: the hub says it best
        reason = str(error).strip().splitlines()[0]
        fix = "Check the network or HF_TOKEN, download it before, or give a folder on storage that every node sees"
        fix = f"Run: make smollm2. Or: {fix[0].lower() + fix[1:]}" if what.endswith("smollm2-135m") else fix
        return problem(f"{what}: neither in the cache nor on the hub as {repository}: {reason}", fix)
    return ok(f"{what}: will be downloaded from the hub")


def hub_text(sweep: Sweep) -> Iterator[Finding]:
    """Whether general text of the hub is in the cache, or can be downloaded."""
    source = sweep.evaluation.text_of(sweep.model.name)
    if source in (None, GENERATED_TEXT, BASICS_TEXT) or source.endswith(".jsonl"):
        return
    try:
        with offline():
            hub_texts(source)
    except ValueError:
        name = source.partition(":")[0]
        yield _on_hub(f"general text of {name}", name, "dataset")
    else:
        yield ok(f"general text of {source}: in the cache of the Hugging Face hub")


def studies(sweep: Sweep) -> Iterator[Finding]:
    """Whether the database for the studies can be used."""
    if (url := sweep.search.storage) is not None:
        try:
            database(url)
        except ValueError as error:
            yield problem(str(error), "Correct search.storage, or leave it out for a file")
        else:
            yield ok(f"studies in {hidden(url)}")


def data(sweep: Sweep) -> Iterator[Finding]:
    """Whether every task has the splits that it needs, and its texts fit the maximum length."""
    datasets.disable_progress_bars()
    local = local_tasks(sweep.data)
    remote = [name for name in (*sweep.data.train_tasks, *sweep.data.ood) if name not in local]
    try:
        tasks = load_tasks(sweep, local)
    except ValueError as error:
        yield problem(str(error), "Correct the data, or data.train and data.ood")
        return
    try:
        with offline():
            tasks |= load_tasks(sweep, remote)
    except ValueError as error:
        names = [_hub_path(sweep, name) for name in remote]
        if None in names:
            yield problem(str(error), "Correct the data, or data.train and data.ood")
            return
        for name in dict.fromkeys(map(str, names)):
            yield _on_hub(f"data of {name}", name, "dataset")
    yield from _sizes(sweep, tasks)
    yield from _replay(sweep, tasks)
    yield from _fisher(sweep)
    yield from formats(sweep, tasks, local_tokenizer(sweep.model))
    yield from overlaps(tasks)
    yield from near_overlaps(sweep, tasks)
    yield from references(tasks)
    yield from _lengths(sweep, tasks)


def _sizes(sweep: Sweep, tasks: Mapping[str, TaskData]) -> Iterator[Finding]:
    tested = ", ".join(f"{name} {len(task.validation)} + {len(task.test)}" for name, task in tasks.items())
    for train in (tasks[name] for name in sweep.data.train_tasks if name in tasks):
        yield ok(f"data: {len(train.train)} examples of {train.name} to train on; validation + test: {tested}")
    for name, task in tasks.items():
        if (fewest := min(len(task.validation), len(task.test))) < _FEW:
            text = f"{name} has {len(task.validation)} validation and {len(task.test)} test examples"
            steps = any(one.kind in ("choice", "number") for one in task.test)
            step = f"accuracies move in steps of {100 / max(1, fewest):.0f} %" if steps else "its mean is uncertain"
            yield warning(f"{text}: {step}", "Use more examples, or more seeds, to distinguish methods")


def _replay(sweep: Sweep, tasks: Mapping[str, TaskData]) -> Iterator[Finding]:
    """Whether there is enough of the task that is mixed into training."""
    counts = [len(tasks[name].train) for name in sweep.data.train_tasks if name in tasks]
    if sweep.data.replay is None or not counts:
        return
    tokenizer, name = local_tokenizer(sweep.model), sweep.data.replay.task
    try:
        with offline():
            replay = load_replay(sweep, max(counts))
            if tokenizer is not None:
                encoded_replay(sweep, max(counts), tokenizer)
    except ValueError as error:
        yield problem(str(error), "Correct data.replay")
        return
    count = len(replay.train) if replay else 0
    yield ok(f"data.replay: {count} examples of {name} beside {max(counts)}; masks are scored without them")


def _fisher(sweep: Sweep) -> Iterator[Finding]:
    """Whether there is enough of the task that `training.ewc` keeps."""
    asked, tokenizer = sweep.data.fisher, local_tokenizer(sweep.model)
    if asked is None:
        return
    try:
        with offline():
            load_fisher(sweep)
            count = asked.examples if tokenizer is None else len(encoded_fisher(sweep, tokenizer))
    except ValueError as error:
        yield problem(str(error), "Correct data.fisher")
        return
    yield ok(f"data.fisher: {count} examples of {asked.task} say which weights training.ewc holds")


def _hub_path(sweep: Sweep, name: str) -> str | None:
    """The hub's dataset of a task; None for a task that there is not."""
    return sweep.data.task(name).source or (HUB_TASKS[name].path if name in HUB_TASKS else None)


def _lengths(sweep: Sweep, tasks: Mapping[str, TaskData]) -> Iterator[Finding]:
    """Prompts that are truncated, and answers that are longer than what is generated."""
    tokenizer = local_tokenizer(sweep.model)
    if tokenizer is None:
        return
    if sweep.data.prompt == CHAT and tokenizer.chat_template is None:
        yield problem("data.prompt is chat, but the model has no chat template", "Write a prompt template")
        return
    longest = sweep.training.max_length
    try:
        unfit = too_long(sweep, tasks, tokenizer)
    except ValueError as error:  # of a chat template
        yield problem(str(error), "")
        return
    if unfit:
        more = f"; so it is with {len(unfit) - 1} more" if len(unfit) > 1 else ""
        yield problem(unfit[0] + more, "")
        return
    parts = [part[:_LOOKED_AT] for task in tasks.values() for part in task.prompted]
    examples = [one for part in parts for one in part]
    try:
        lengths = text_lengths(examples, tokenizer, sweep.data.prompt)
        dated = sweep.data.prompt == CHAT and changes_with_time(tokenizer)
    except ValueError as error:
        yield problem(str(error), "")
        return
    if dated:
        text = "the model's chat template writes the date into every prompt: all runs get that of the sweep's start"
        yield warning(text, "Sweeps started on different days differ by it")
    cut = sum(length > longest for length in lengths.texts)
    text = f"prompts and answers have up to {max(lengths.texts)} tokens, training.max_length is {longest}"
    if cut:
        dropped = ", or are left out of training" if sweep.training.too_long == "drop" else ""
        yield warning(
            f"{text}: {100 * cut / len(lengths.texts):.0f} % of the prompts lose their beginning{dropped}", "Raise it"
        )
    else:
        yield ok(text)
    for name, task in tasks.items():
        if measured := [one for part in task.prompted[1:] for one in part[:_LOOKED_AT]]:
            yield from cut_when_generated(sweep, name, measured, tokenizer)


def cut_when_generated(sweep: Sweep, name: str, examples: Sequence[Example], tokenizer: Any) -> Iterator[Finding]:
    """Whether a task's right answers fit into what is generated for it, if anything is."""
    how, evaluation = measuring(sweep, name, examples), sweep.evaluation
    usual = EvaluationSettings(
        prompt=sweep.data.prompt,
        max_length=sweep.training.max_length,
        batch_size=1,
        max_new_tokens=evaluation.new_tokens(),
        max_reasoning_tokens=evaluation.new_tokens(reasoning=True),
    )
    if not (room := how.new_tokens(usual)):
        return
    lengths = text_lengths(examples, tokenizer, sweep.data.prompt)
    answers = max(lengths.option, lengths.reasoning)
    if answers > room:
        of = "evaluation" if how.max_new_tokens is None else f"data.tasks.{name}"
        text = f"{name}: answers have up to {answers} tokens, {of}.max_new_tokens is {room}: generated ones are cut"
        yield warning(text, f"Give {answers} or more")


def tuners(sweep: Sweep) -> Iterator[Finding]:
    """Whether PEFT accepts the model and the options, judged by shapes; the first slot tries it with weights."""
    methods = [make_method(each) for spec in sweep.methods for each in variants(sweep, spec, "target_modules")]
    named = [method for method in methods if isinstance(method, PeftMethod | Hybrid)]
    if not named:
        return
    try:
        model = meta_model(sweep.model)
    except Exception:  # what prevents loading is a finding of its own
        return
    structure = Structure(model)
    for method in named:
        spec = method.spec
        try:
            method.attach(model)
            yield ok(f"method {spec.name}: PEFT takes the model and the options")
        except ValueError as error:
            if "meta" not in str(error):  # some tuners read weights, which a model on the meta device lacks
                yield problem(f"method {spec.name}: {error}", "Change its options or target modules, or leave it out")
        except RuntimeError:
            pass
        finally:
            structure.restore()


def optimizer(sweep: Sweep) -> Iterator[Finding]:
    """Whether the optimizers and the schedules can be made and train what the methods train."""
    try:
        try_trainings(sweep)
    except ValueError as error:
        yield problem(str(error), "")
        return
    if sweep.deepspeed.zero_stage == 0 and sweep.model.dtype == "float32":
        return
    every = (training for spec in sweep.methods if spec.trains for training in trainings(sweep, spec))
    for name in dict.fromkeys(training.optimizer for training in every if goes_by_tensors(training)):
        text = (
            f"training.optimizer: {name} goes by whole tensors, and ZeRO gives it parts of one vector of all parameters"
        )
        yield warning(f"{text}: results depend on zero_stage and workers", "Name another, such as adamw")


def extra(sweep: Sweep) -> Iterator[Finding]:
    """Whether DeepSpeed accepts `deepspeed.extra`, and has what that needs."""
    if not sweep.deepspeed.extra:
        return
    try:
        refuse_extra(sweep.deepspeed, sweep.training, getattr(torch, sweep.model.dtype), 1)
        yield ok("deepspeed.extra: DeepSpeed takes it")
    except ValueError as error:
        yield problem(str(error), "Change it, or leave it out")
    # DeepSpeed compiles nothing for us, except for offloading to NVMe.
    if "nvme" not in json.dumps(sweep.deepspeed.extra):
        return
    lacking = [] if shutil.which("c++") or shutil.which("g++") else ["a C++ compiler"]
    lacking += [] if ctypes.util.find_library("aio") else ["libaio"]
    if lacking:
        fix = "Debian: apt-get install g++ libaio-dev"
        yield problem(f"offloading to NVMe compiles DeepSpeed's async_io, which needs {' and '.join(lacking)}", fix)


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
