"""`gallop-ray plan`: runs and steps, sizes and memory, before anything runs."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gallop_ray.preflight.exports import Export, exports_of
from gallop_ray.sparse.candidates import Candidate, find_candidates
from gallop_ray.spec.configuration import method_space, resolve
from gallop_ray.spec.data import DataSpec
from gallop_ray.spec.load import resolved_yaml
from gallop_ray.spec.method import MaskMethodSpec, MethodSpec
from gallop_ray.spec.plan import SweepPlan, plan_sweep
from gallop_ray.spec.rungs import climbs
from gallop_ray.spec.schema import Configuration, Sweep
from gallop_ray.spec.space import extremes
from gallop_ray.tasks.hub import HUB_TASKS
from gallop_ray.tasks.lengths import Fitted, fitted
from gallop_ray.tasks.load import load_task, local_tasks
from gallop_ray.training.engine import quiet, zero_stage
from gallop_ray.training.memory import Estimate, estimate
from gallop_ray.training.models import local_tokenizer, meta_model

_SIZE = ("method.density", "method.rank", "method.target_modules")
_BATCH = ("training.micro_batch_size", "training.max_length", "training.gradient_checkpointing")
_PARTS: dict[str, Callable[[Estimate], int]] = {
    "Weights": lambda each: each.weights,
    "Gathered": lambda each: each.gathered,
    "Scores": lambda each: each.scores,
    "Values and optimizer": lambda each: each.values,
    "Activations": lambda each: each.activations,
    "Total": lambda each: each.total,
}
_MEMORY_NOTE = """\
Total: the peak; the scores are gone when the values come. Gathered: whole weights that ZeRO-3 has fetched, at most.
Activations: of a micro-batch of max_length with answers of max_new_tokens.
Not counted: the CUDA context, the allocator's caches, measuring accuracy."""
_EXPORT_NOTE = """\
delta: for gallop_ray.apply_adapter. peft: a folder that PeftModel loads. merged: a plain transformers folder, which
every server of models takes; those that take adapters take LoRA alone."""
_FLOAT32 = _PLACE = 4  # bytes
_LARGE = 0.05  # weights that cannot be chosen are named from this share of the model on
Row = tuple[str, str, Estimate]


def print_plan(sweep: Sweep, fields: bool = False) -> None:
    """Print a sweep's runs and steps, what each method trains, and the memory per worker; `fields` come last.

    Needs neither weights nor network, except for the configuration file of an unknown hub model. Raises ValueError,
    with the fix, for what the sweep cannot do with its model or its data.
    """
    quiet()
    rows, reached, fits = list(estimates(sweep)), reach(sweep), _fits(sweep)
    plan = plan_sweep(sweep, _train_examples(sweep.data, fits))
    console = Console(markup=False)
    for table, note in (_work(plan), _sizes(rows), exports(sweep, rows), _memory(sweep, rows)):
        console.print(table)
        console.print(Text(note + "\n"), soft_wrap=True)
    for line in [*reached, *(f"{task}: {each}" for task, each in fits.items() if each.cut or each.dropped)]:
        console.print(Text(line), soft_wrap=True)
    if fields:
        console.print(Text(resolved_yaml(sweep)), soft_wrap=True)


def _fits(sweep: Sweep) -> dict[str, Fitted]:
    """What max_length leaves of each task to train on; none where the model's tokenizer or the data are not here."""
    tokenizer = local_tokenizer(sweep.model)
    found: dict[str, Fitted] = {}
    made = sweep.data.root == "generated"  # which is never long
    for task in sweep.data.train_tasks if tokenizer is not None else ():
        if made and task not in sweep.data.tasks:
            continue
        with offline():
            try:
                examples = load_task(task, sweep.data, ("train",))
            except ValueError:  # it is reported where examples are counted, or is not downloaded yet
                continue
        found[task] = fitted(sweep, examples, tokenizer)
    return found


def _train_examples(data: DataSpec, fits: Mapping[str, Fitted]) -> list[int] | None:
    """At most how many examples an epoch of each round has; None where counting would need a download."""
    found = [len(fits[task].items) if task in fits else _examples_of(task, data) for task in data.train_tasks]
    known = [count for count in found if count is not None]
    return [data.epoch(count) for count in known] if len(known) == len(found) else None


def _examples_of(task: str, data: DataSpec) -> int | None:
    if task in local_tasks(data):
        return len(load_task(task, data, ("train",)).train)
    with offline():
        try:
            return len(load_task(task, data, ("train",)).train)
        except ValueError:
            if task not in HUB_TASKS and data.task(task).source is None:
                raise
            return data.limits.train


@contextmanager
def offline() -> Iterator[None]:
    """Context manager: datasets are read from the cache only."""
    # On the module: the environment variable is read only while datasets is imported.
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def estimates(sweep: Sweep) -> Iterator[Row]:
    """Each method's name, values of what decides its size, and the estimate for the batch that needs most memory."""
    model = meta_model(sweep.model)
    for method in sweep.methods:
        for values in _corners(sweep, method, _SIZE):
            batches = [{**values, **batch} for batch in _corners(sweep, method, _BATCH)]
            estimates = [_estimate(model, sweep, resolve(sweep, method.name, each)) for each in batches]
            yield method.name, _written(values), max(estimates, key=lambda each: each.total)


def reach(sweep: Sweep) -> list[str]:
    """One line per mask method: the share of the model it can choose from, and the large weights it cannot."""
    masks = [method for method in sweep.methods if isinstance(method, MaskMethodSpec)]
    if not masks:
        return []
    model, lines = meta_model(sweep.model), {}
    total = sum(p.numel() for p in model.parameters())
    for method in masks:
        candidates = find_candidates(model, method.target_modules)
        share = sum(each.numel for each in candidates) / total
        left = _left_out(model, {id(each.weight) for each in candidates}, total)
        lines[method.name] = f"{share:.1%} of the model ({_ends(candidates)})" + (f"; not {left}" if left else "")
    return [
        f"{', '.join(n for n in lines if lines[n] == line)}: chosen from {line}"
        for line in dict.fromkeys(lines.values())
    ]


def _ends(candidates: Sequence[Candidate]) -> str:
    """By the ends of their names; of experts' matrices how many a parameter holds."""
    experts = Counter(c.place for c in candidates if c.expert is not None)
    found = [(c.place.rpartition(".")[2], experts.get(c.place)) for c in candidates]
    return ", ".join(end if count is None else f"{end} of {count} experts" for end, count in dict.fromkeys(found))


def _left_out(model: Any, chosen: set[int], total: int) -> str:
    """The large weights that are not candidates, by the ends of their names, with their shares."""
    sizes: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if id(parameter) not in chosen and parameter.ndim > 1:
            sizes[".".join(part for part in name.removesuffix(".weight").split(".") if not part.isdigit())] += (
                parameter.numel()
            )
    return ", ".join(f"{name} ({size / total:.0%})" for name, size in sizes.most_common() if size >= _LARGE * total)


def _corners(sweep: Sweep, method: MethodSpec, paths: Sequence[str]) -> Iterator[dict[str, object]]:
    """Combinations of all choices, or both ends, of the searched paths; one empty combination if none is searched."""
    searched = {path: extremes(values) for path, values in method_space(sweep, method.name).items() if path in paths}
    for corner in itertools.product(*searched.values()):
        yield dict(zip(searched, corner, strict=True))


def _estimate(model: Any, sweep: Sweep, configuration: Configuration) -> Estimate:
    try:
        return estimate(model, sweep, configuration)
    except ValueError as error:
        raise ValueError(f"method {configuration.method.name}: {error}") from error


def _written(values: dict[str, object]) -> str:
    """`rank 8, target_modules [q_proj]`; a density as LoRA is `lora_rank 8`."""
    fields: dict[str, object] = {}
    for path, value in values.items():
        fields |= value if isinstance(value, dict) else {path.partition(".")[2]: value}
    return ", ".join(f"{field} {value}" for field, value in fields.items())


def _work(plan: SweepPlan) -> tuple[Table, str]:
    table = _table("Runs", ("Method",), ("Configurations", "Seeds", "Runs", "Steps per run"))
    for method in plan.methods:
        row = method.configurations, plan.seeds, method.runs, method.steps_per_run
        table.add_row(method.method, *map(_count, row))
    table.add_section()
    table.add_row("total", *map(_count, (plan.configurations, plan.seeds, plan.runs)), "")
    if plan.steps is None:
        return table, f"Optimizer steps: epochs x examples: {_count(None)} until the data is read."
    return table, f"Optimizer steps, at most; in all runs {plan.steps:,}."


def _sizes(rows: Iterable[Row]) -> tuple[Table, str]:
    table = _table("Trained parameters", ("Method", "Options"), ("k", "Density k/N", "trainable_percent"))
    for name, choice, each in rows:
        table.add_row(name, Text(choice), _count(each.trained), f"{each.density:.4g}", f"{each.trainable_percent:.4f}")
    return table, "k: trained parameters. N: all of the base model. trainable_percent: 100 k/(N+k), as PEFT prints it."


def exports(sweep: Sweep, rows: Iterable[Row]) -> tuple[Table, str]:
    """What a finished run can be exported to, and how large that is."""
    table, notes = (
        _table("Exports", ("Method", "Options"), ("--to delta", "--to peft", "--to merged")),
        dict[str, list[str]](),
    )
    model, specs = meta_model(sweep.model), {each.name: each for each in sweep.methods}
    for name, choice, each in rows:
        found = exports_of(model, specs[name], each)
        table.add_row(name, Text(choice), *(_export(one) for one in (found.delta, found.peft, found.merged)))
        if found.why:
            notes.setdefault(found.why, []).append(name)
    said = [f"{', '.join(dict.fromkeys(names))}: {why}" for why, names in notes.items()]
    return table, "\n".join([_EXPORT_NOTE, *said])


def _export(size: Export) -> str:
    if size.bytes is None:
        return "none"
    return f"{_size(size.bytes)}{' or more' * size.at_least}"


def _memory(sweep: Sweep, rows: Sequence[Row]) -> tuple[Table, str]:
    parts = dict(_PARTS)
    if any(each.offloaded for *_, each in rows):
        parts["On the host"] = lambda each: each.offloaded
    workers, dtype = sweep.resources.workers_per_slot, sweep.model.dtype
    stage = zero_stage(sweep.deepspeed, getattr(torch, dtype))
    title = f"Memory per worker ({workers} in a slot, ZeRO stage {stage}, {dtype}), estimated"
    table = _table(title, ("Method", "Options"), list(parts))
    for name, choice, each in rows:
        table.add_row(name, Text(choice), *(_part(label, part(each), each) for label, part in parts.items()))
    unknown = dict.fromkeys(map(no_estimate, (each for *_, each in rows if each.unknown)))
    return table, "\n".join([_MEMORY_NOTE, *unknown, *_paused(sweep, rows)])


def _paused(sweep: Sweep, rows: Sequence[Row]) -> Iterator[str]:
    """The line about runs that wait at rungs, of sweeps that have any."""
    if not climbs(sweep):
        return
    most, largest = plan_sweep(sweep, None).configurations, max(_paused_bytes(each) for *_, each in rows)
    held = f"up to {_size(held_at_most(sweep))} of the host's memory per slot (resources.held_gb)"
    on_disk = f"on disk up to {_size(largest)} each, for at most {most} of them {_size(most * largest)}"
    yield f"Paused runs: {held}; {on_disk}."


def _paused_bytes(each: Estimate) -> int:
    """The checkpoint of a run: each trained value and its two moments in float32, and the place of each, if masked."""
    return (3 * _FLOAT32 + _PLACE) * each.trained


def held_at_most(sweep: Sweep) -> int:
    """Bytes of main memory in which a slot keeps paused runs; 0 for sweeps whose runs do not pause."""
    return int(sweep.resources.held_gb * 1e9) if climbs(sweep) else 0


def no_estimate(each: Estimate) -> str:
    """The line that says that, and why, the activations are unknown."""
    return f"Activations: no estimate: {each.unknown}. They come on top of the total."


def _part(label: str, size: int, each: Estimate) -> str:
    if not each.unknown or label not in ("Activations", "Total"):
        return _size(size)
    return "unknown" if label == "Activations" else f"> {_size(size)}"


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.title_justify = table.caption_justify = "left"
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")
    return table


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _size(count: int) -> str:
    """Bytes as GB, or MB below one, with up to three digits."""
    if count == 0:
        return "0"
    number, unit = (count / 1e9, "GB") if count >= 0.9995e9 else (count / 1e6, "MB")
    return f"{number:.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"
