"""Advice about a sweep before it runs: not errors, but worth knowing. Printed by `validate`, `plan` and `run`."""

from collections.abc import Iterator, Mapping

from gallop_ray.analysis.comparison import LEAST_SEEDS
from gallop_ray.analysis.edges import two_values
from gallop_ray.analysis.verdict import listed, seeds_text, selection_text
from gallop_ray.spec.configuration import method_space, space_keys, tried_values
from gallop_ray.spec.method import MethodSpec
from gallop_ray.spec.plan import MethodPlan, plan_sweep
from gallop_ray.spec.rungs import climbs
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.search import SAMPLERS
from gallop_ray.spec.space import LogRange, Range, grid_point, grid_size, points

_MOST_POINTS = 1000  # of a grid whose omitted values are named; the search for them is quadratic


def advice(sweep: Sweep) -> list[str]:
    """Sentences about what this sweep's results will and will not show; empty where there is nothing to say."""
    said = [
        text
        for look in (_learning, cut_grids, _never_pruned, _rungs_out_of_reach, _unused, _two_values, _scales, _seeds)
        for text in look(sweep)
    ]
    return [*said, *filter(None, [selection_text(sweep)])]


def _learning(sweep: Sweep) -> Iterator[str]:
    """The configuration from which on results decide, for samplers that use them."""
    if sweep.search.sampler not in SAMPLERS or sweep.search.sampler in ("random", "grid"):
        return
    groups: dict[tuple[int, int | None], list[str]] = {}
    for plan in plan_sweep(sweep, None).methods:
        if method_space(sweep, plan.method) and not _finite(sweep, plan):
            groups.setdefault((plan.configurations, plan.learns_from), []).append(plan.method)
    for (configurations, learns_from), methods in groups.items():
        count = f"{configurations} configuration{'s' * (configurations > 1)}"
        what = f"{sweep.search.sampler}: of {count} of {listed(methods)}"
        if learns_from is None:
            yield f"{what} none is chosen by results; raise budget.configurations"
        else:
            yield f"{what} {learns_from - 1} are drawn blindly, and from number {learns_from} on results decide"


def _finite(sweep: Sweep, plan: MethodPlan) -> bool:
    """Whether all of its points are tried, so that their order does not matter."""
    return grid_size(method_space(sweep, plan.method)) == plan.configurations


def cut_grids(sweep: Sweep) -> Iterator[str]:
    """The points of a grid that its budget leaves out."""
    if sweep.search.sampler != "grid":
        return
    for plan in plan_sweep(sweep, None).methods:
        space = method_space(sweep, plan.method)
        size = grid_size(space)
        if size is None or size <= plan.configurations:
            continue
        left = _never_tried(space, plan.configurations) if size <= _MOST_POINTS else []
        never = f": {listed(left)} never" if left else ""
        what = f"{plan.method}: budget.configurations {plan.configurations} cuts its grid of {size} points"
        yield f"{what}{never}; raise it, or leave it out to try them all"


def _never_pruned(sweep: Sweep) -> Iterator[str]:
    """Pruning that waits for more configurations than there are, or that has settings but no rule."""
    pruning, usual = sweep.pruning, type(sweep.pruning)()
    if pruning.type == "none":
        changed = [
            f
            for f in ("after_seeds", "after_configurations", "reduction", "significance")
            if getattr(pruning, f) != getattr(usual, f)
        ]
        if changed:
            yield f"pruning.{changed[0]} has no effect with pruning.type none; choose median, race or asha"
    elif pruning.type in ("median", "race"):
        most = max(plan.configurations for plan in plan_sweep(sweep, None).methods)
        if pruning.after_configurations > most - 1:
            what = {"median": "stops nothing", "race": "stops only what is clearly worse than the best"}[pruning.type]
            what = f"{pruning.type} {what}: it waits for {pruning.after_configurations} other configurations"
            yield f"{what}, and a method has {most} at most; lower pruning.after_configurations, or raise the budget"


def _rungs_out_of_reach(sweep: Sweep) -> Iterator[str]:
    """Rungs behind the end of every run."""
    steps = [count for method in sweep.methods for count in tried_values(sweep, method, "training.steps")]
    most = None if None in steps else max(steps)
    beyond = [each for each in sweep.pruning.rungs or () if isinstance(each, int) and most and each >= most]
    if beyond:
        yield f"pruning.rungs: {beyond[0]} is never reached, because a run has {most} steps at most; give smaller ones"


def _unused(sweep: Sweep) -> Iterator[str]:
    """Tasks that are neither trained on nor tested, ranges that cannot grow, memory for pauses that never come."""
    unused = [name for name in sweep.data.tasks if name not in (*sweep.data.read_tasks, *sweep.data.ood)]
    if unused:
        yield f"data.tasks: {listed(unused)} is neither in data.train nor in data.ood, and so is not used"
    if (replay := sweep.data.replay) and replay.task in sweep.data.ood:
        yield f"data.replay trains on {replay.task}, so that {replay.task} in data.ood is no task unknown to training"
    if (fisher := sweep.data.fisher) and fisher.task in sweep.data.ood:
        yield f"data.fisher keeps {fisher.task}, so that {fisher.task} in data.ood is no task unknown to training"
    if sweep.search.widen and not any(isinstance(each, LogRange) for each in sweep.search.space.values()):
        yield "search.widen has no effect: no range is {log: [low, high]}"
    if sweep.resources.held_gb != type(sweep.resources)().held_gb and not climbs(sweep):
        yield "resources.held_gb has no effect: no run pauses without pruning of type asha, pruning.rungs or interleave"


def _never_tried(space: Mapping[str, Range], count: int) -> list[str]:
    """The values that occur in none of the first `count` points of a grid."""
    tried = [grid_point(space, number) for number in range(count)]
    return [
        f"{path.partition('.')[2]} {value}"
        for path, allowed in space.items()
        for value in points(allowed) or ()
        if all(point[path] != value for point in tried)
    ]


def _two_values(sweep: Sweep) -> Iterator[str]:
    keys = {key for method in sweep.methods for key in space_keys(sweep, method).values()}
    found = [key for key in sweep.search.space if key in keys and two_values(sweep.search.space[key])]
    if found:
        yield f"{listed(found)}: of two values the best is always at an edge; give three or more"


def _scales(sweep: Sweep) -> Iterator[str]:
    found = [method.name for method in sweep.methods if _scale_varies(sweep, method)]
    if found:
        what = f"{listed(found)}: the rank is searched with alpha fixed, so the scale alpha / rank changes with it"
        yield f"{what}; give alpha_over_rank instead"


def _scale_varies(sweep: Sweep, method: MethodSpec) -> bool:
    keys = space_keys(sweep, method)
    scaled = "method.alpha_over_rank" in keys or getattr(method, "alpha_over_rank", None) is not None
    return method.type in ("lora", "dora") and "method.rank" in keys and not scaled


def _seeds(sweep: Sweep) -> Iterator[str]:
    """Whether there are enough seeds for a verdict, and how many it takes."""
    seeds = sweep.confirmation.seeds if sweep.confirmation else sweep.seeds
    if len(sweep.methods) < 2:
        return
    count = f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"
    head = f"no verdict is possible with {count}" if len(seeds) < LEAST_SEEDS else f"the verdict has {count}"
    yield f"{head}: {seeds_text(len(sweep.methods))}"
