"""What a sweep will do, before anything runs: the resolved spec, its runs and steps, sizes and memory."""

import itertools
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gallop_ray.spec.configuration import method_space, resolve
from gallop_ray.spec.dump import resolved_yaml
from gallop_ray.spec.methods import MethodSpec
from gallop_ray.spec.plan import SweepPlan, plan_sweep
from gallop_ray.spec.schema import Configuration, DataSpec, Sweep
from gallop_ray.spec.space import witnesses
from gallop_ray.tasks.load import load_task
from gallop_ray.training.engine import quiet, zero_stage
from gallop_ray.training.memory import Estimate, estimate
from gallop_ray.training.models import meta_model

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
Row = tuple[str, str, Estimate]


def print_plan(sweep: Sweep) -> None:
    """Print the resolved sweep, its runs and steps, what each method trains, and the memory a worker needs.

    Needs neither weights nor network (for a hub model that is not known, its configuration file). Raises ValueError
    for what the sweep cannot do with its model or its data, with what to change.
    """
    quiet()
    rows = list(_rows(sweep))
    plan = plan_sweep(sweep, _train_examples(sweep.data))
    console = Console()
    console.print(Text(resolved_yaml(sweep)), soft_wrap=True)
    for table in (_work_table(plan), _size_table(rows), _memory_table(sweep, rows)):
        console.print(table)
        console.print()


def _train_examples(data: DataSpec) -> int | None:
    """How many examples an epoch has, at most; None where they would have to be downloaded to be counted."""
    if data.root != "hub":
        return len(load_task(data.train, data, ("train",)).train)
    with _offline():
        try:
            return len(load_task(data.train, data, ("train",)).train)
        except ValueError:
            return data.limits.train


@contextmanager
def _offline() -> Iterator[None]:
    """While this is open datasets are taken from the cache or not at all."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _rows(sweep: Sweep) -> Iterator[Row]:
    """Each method's name, a choice of what decides its size, and the estimate at the batch that needs most."""
    model = meta_model(sweep.model)
    for method in sweep.methods:
        for values in _corners(sweep, method, _SIZE):
            batches = [{**values, **batch} for batch in _corners(sweep, method, _BATCH)]
            estimates = [_estimate(model, sweep, resolve(sweep, method.name, each)) for each in batches]
            yield method.name, _written(values), max(estimates, key=lambda each: each.total)


def _corners(sweep: Sweep, method: MethodSpec, paths: Sequence[str]) -> Iterator[dict[str, object]]:
    """Every choice, or both ends, of those of the paths that are searched; one empty choice where none is."""
    searched = {path: witnesses(values) for path, values in method_space(sweep, method.name).items() if path in paths}
    for corner in itertools.product(*searched.values()):
        yield dict(zip(searched, corner, strict=True))


def _estimate(model: Any, sweep: Sweep, configuration: Configuration) -> Estimate:
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            return estimate(model, sweep, configuration)
    except ValueError as error:
        raise ValueError(f"method {configuration.method.name}: {error}") from error


def _written(values: dict[str, object]) -> str:
    """`density {lora_rank: 8}`: the choice as in the sweep file."""
    parts = (f"{path.partition('.')[2]} {json.dumps(value).replace(chr(34), '')}" for path, value in values.items())
    return ", ".join(parts)


def _work_table(plan: SweepPlan) -> Table:
    table = _table("Runs", ("Method",), ("Configurations", "Seeds", "Runs", "Steps a run"))
    for method in plan.methods:
        row = method.configurations, plan.seeds, method.runs, method.steps_per_run
        table.add_row(method.method, *map(_count, row))
    table.add_section()
    table.add_row(
        "together", *map(_count, (plan.configurations, plan.seeds, plan.runs)), f"{_count(plan.steps)} in all"
    )
    unknown = "\n-: epochs x examples: unknown until the data is read" if plan.steps is None else ""
    table.caption = f"Steps are optimizer steps, at most.{unknown}"
    return table


def _size_table(rows: Iterable[Row]) -> Table:
    table = _table("Trained parameters", ("Method", "With"), ("Trained (k)", "Density k/N", "trainable_percent"))
    table.caption = "N: all parameters of the base model. trainable_percent: 100 k/(N+k), as PEFT prints it."
    for name, choice, each in rows:
        table.add_row(name, Text(choice), _count(each.trained), f"{each.density:.4g}", f"{each.trainable_percent:.4f}")
    return table


def _memory_table(sweep: Sweep, rows: Sequence[Row]) -> Table:
    parts = dict(_PARTS)
    if any(each.offloaded for *_, each in rows):
        parts["Host instead"] = lambda each: each.offloaded
    workers, dtype = sweep.resources.workers_per_slot, sweep.model.dtype
    stage = zero_stage(sweep.deepspeed, dtype)
    table = _table(
        f"Memory of each of {workers} worker(s), ZeRO stage {stage}, {dtype}", ("Method", "With"), list(parts)
    )
    table.caption = (
        "Estimated. Total: the peak; scores are gone when values come. Gathered: weights fetched by ZeRO-3, at most.\n"
        "Activations: a micro-batch of max_length, answers of max_new_tokens. Not counted: CUDA context, caches, "
        "evaluation."
    )
    for name, choice, each in rows:
        table.add_row(name, Text(choice), *(_size(part(each)) for part in parts.values()))
    return table


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.title_justify = table.caption_justify = "left"
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")
    return table


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _size(count: int) -> str:
    """Bytes as GB, below one as MB, with up to three digits."""
    if count == 0:
        return "0"
    number, unit = (count / 1e9, "GB") if count >= 0.9995e9 else (count / 1e6, "MB")
    return f"{number:.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"
