"""AdaLoRA in a sweep: whether every configuration prunes its ranks to the end."""

from collections.abc import Iterator

from gallop_ray.spec.adalora import NAME, Schedule, refused_adalora
from gallop_ray.spec.configuration import tried_values
from gallop_ray.spec.other_methods import PeftSpec
from gallop_ray.spec.peft_tuners import peft_variants
from gallop_ray.spec.problems import Finding, shown
from gallop_ray.spec.schema import Sweep


def adalora_prunes(sweep: Sweep) -> Iterator[Finding]:
    """AdaLoRA's options, its schedule in runs whose steps the file says, and `keep: best`."""
    for place, method in enumerate(sweep.methods):
        if isinstance(method, PeftSpec) and NAME in (str(t).lower() for t in tried_values(sweep, method, _TUNER)):
            yield from _best_is_pruned(sweep, place, method)
            yield from _options_prune(sweep, place, method)


_TUNER = "method.tuner"


def _best_is_pruned(sweep: Sweep, place: int, method: PeftSpec) -> Iterator[Finding]:
    if "best" in tried_values(sweep, method, "training.keep"):
        message = f"{shown(NAME)} is not allowed with training.keep: best, whose step may be one before its ranks were"
        yield (("methods", place, "tuner"), ("training", "keep")), f"{message} pruned; leave out one of the two"


def _options_prune(sweep: Sweep, place: int, method: PeftSpec) -> Iterator[Finding]:
    fewest = min((s for s in tried_values(sweep, method, "training.steps") if s is not None), default=None)
    for path, variant in peft_variants(sweep, place, method):
        if str(variant.tuner).lower() != NAME or not isinstance(variant.options, dict):
            continue
        refused = dict(refused_adalora(variant.options))
        for name, reason in refused.items():
            yield ((*path, name),), f"{shown(variant.options[name])} is not allowed; {reason}"
        if fewest is not None and not refused:
            try:
                Schedule.of(variant.options, fewest)
            except ValueError as error:
                yield (path, ("training", "steps")), f"are not allowed in {fewest} steps; {error}"
