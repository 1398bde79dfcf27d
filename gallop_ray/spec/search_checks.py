"""The checks of a search space: that its paths exist and that every value in reach is allowed."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, product

from pydantic import ValidationError

from gallop_ray.spec.configuration import (
    first_points,
    known_paths,
    normalised,
    offered,
    searchable,
    section_model,
    space_keys,
    tried_values,
)
from gallop_ray.spec.frozen import leaf_types
from gallop_ray.spec.method import MethodSpec
from gallop_ray.spec.plan import configurations_of
from gallop_ray.spec.problems import Finding, Path, by_path, did_you_mean, explain, shown
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.search import PLAIN_SAMPLERS, WIDENING
from gallop_ray.spec.space import ChoiceRange, IntegerRange, Range, extremes, holds, points
from gallop_ray.spec.training import TrainingSpec

_OPTIMIZER_OWNED = {
    "lr": "training.learning_rate",
    "weight_decay": "training.weight_decay",
    "params": "methods",
}
_MOST_CORNERS = 1000
_COUNT_STEPS = {"adam", "adamax", "nadam", "radam", "adafactor"}

# Paths share their first part, which makes them more alike than their fields are.
_CLOSE = 0.8


def training_paths(sweep: Sweep) -> Iterator[Finding]:
    """Paths under `training.` that are not fields."""
    known = [f"training.{field}" for field in offered(TrainingSpec)]
    for key in sweep.search.space:
        if key.startswith("training.") and key.partition(".")[2] not in searchable(TrainingSpec):
            yield _at(key), f"there is no such field{did_you_mean(key, known, _CLOSE) or _allowed(known)}"


def fixed_paths(sweep: Sweep) -> Iterator[Finding]:
    """Paths into sections that stay the same for a whole sweep."""
    for key in sweep.search.space:
        head = key.partition(".")[0]
        if head in Sweep.model_fields and head != "training":
            reason = "is fixed for a sweep, because slots keep the model and the data resident"
            yield _at(key), f"cannot be searched: {head} {reason}; write one sweep file per value"


def settled_fields(sweep: Sweep) -> Iterator[Finding]:
    """Fields of the training that are searched and would be the same in every configuration."""
    for key in sweep.search.space:
        *_, section, field = ("", *key.split("."))
        if section == "training" and field in TrainingSpec.fixed:
            reason = "is fixed for a sweep, because slots keep the data as tokens"
            reason = "changes no result" if field.startswith("checkpoint") else reason
            yield _at(key), f"cannot be searched: {field} {reason}; write one sweep file per value"


def steps_or_epochs(sweep: Sweep) -> Iterator[Finding]:
    """Epochs that are searched where the training has steps, which override them."""
    for method in sweep.methods:
        key = space_keys(sweep, method).get("training.epochs")
        if key is not None and None not in tried_values(sweep, method, "training.steps"):
            message = f"has no effect for {method.name}, because training.steps overrides the epochs"
            yield (*_at(key), ("training", "steps")), f"{message}; leave out one of the two"


def owned_options(sweep: Sweep) -> Iterator[Finding]:
    """Options of the optimizer that would silently win over fields of the training, which configurations may search."""
    written: dict[Path, object] = {("training", "optimizer_options"): sweep.training.optimizer_options}
    for key, values in sweep.search.space.items():
        if key.endswith("training.optimizer_options"):
            written |= {("search", "space", key, "choice", n): each for n, each in enumerate(extremes(values))}
    for path, options in written.items():
        for option in options if isinstance(options, dict) else ():
            if option in _OPTIMIZER_OWNED:
                yield ((*path, option), path), f"is not allowed here; set {_OPTIMIZER_OWNED[option]} instead"


def sampler_has_options(sweep: Sweep) -> Iterator[Finding]:
    """Options for a sampler whose arguments are set here."""
    name = sweep.search.sampler
    if sweep.search.sampler_options and name in PLAIN_SAMPLERS:
        fix = {"tpe": "; name the class, `sampler: TPESampler`", "nsga2": "; name the class, `sampler: NSGAIISampler`"}
        message = f"is not allowed with {name}, whose arguments are set for you{fix.get(name, '')}"
        yield (("search", "sampler_options"), ("search", "sampler")), f"{message}, or leave it out"


def ranges_can_grow(sweep: Sweep) -> Iterator[Finding]:
    """Ranges that are to grow where they cannot."""
    if not sweep.search.widen:
        return
    widen, name = ("search", "widen"), sweep.search.sampler
    if name not in WIDENING:
        message = f"is not allowed with {name}, which draws from ranges that stay; choose {' or '.join(WIDENING)}"
        yield (widen, ("search", "sampler")), f"{message}, or leave it out"
    elif sweep.objective.metrics:
        yield (
            (widen, ("objective",)),
            "is not allowed with several metrics, of which there is no one best; leave it out",
        )


def options_fit_together(sweep: Sweep) -> Iterator[Finding]:
    """Values of a method that it takes one by one, but not beside others that may be searched, too."""
    for method in sweep.methods:
        paths = {path: key for path, key in space_keys(sweep, method).items() if path.startswith("method.")}
        fields = [path.partition(".")[2] for path in paths]
        corners = product(*(extremes(sweep.search.space[key]) for key in paths.values()))
        for corner in islice(corners, _MOST_CORNERS if fields else 0):
            values = dict(zip(fields, corner, strict=True))
            if message := _misfit_of_all(method, values):
                shared = ", ".join(f"{field} {shown(value)}" for field, value in values.items())
                at = tuple(_at(key)[0] for key in reversed(paths.values()))
                yield at, f"{shared} is not allowed for {method.name}; {message}"
                break


def method_paths(sweep: Sweep) -> Iterator[Finding]:
    """Paths to options that no method has."""
    known = known_paths(sweep.methods)
    for key in sweep.search.space:
        if key.partition(".")[0] in Sweep.model_fields or any(normalised(key, each) for each in sweep.methods):
            continue
        heads = ["training", "method", *dict.fromkeys(method.name for method in sweep.methods)]
        hint = did_you_mean(key, known, _CLOSE) or f"; a path begins with {', '.join(heads)}"
        yield _at(key), f"no method has this option{hint}"


def range_values(sweep: Sweep) -> Iterator[Finding]:
    """Ends and choices that a field does not allow."""
    for key, values in sweep.search.space.items():
        reached = [(path, method) for method in sweep.methods if (path := normalised(key, method))]
        sections = [
            (sweep.training if section_model(path, method) is TrainingSpec else method, path.partition(".")[2])
            for path, method in reached
        ]
        yield from dict.fromkeys(found for section in sections for found in _refused_values(key, *section, values))


def values_are_the_fields(sweep: Sweep) -> Iterator[Finding]:
    """Choices that the field takes for the same value."""
    for method in sweep.methods:
        for path, key in space_keys(sweep, method).items():
            taken = tried_values(sweep, method, path)
            if twice := [value for place, value in enumerate(taken) if value in taken[:place]]:
                yield _at(key, "choice"), f"the values must differ, but {shown(twice[0])} is there twice"


def grid_is_finite(sweep: Sweep) -> Iterator[Finding]:
    """Ranges without points where a grid is asked for."""
    for key, values in sweep.search.space.items():
        if sweep.search.sampler == "grid" and points(values) is None:
            kind = next(iter(type(values).model_fields))
            yield _at(key), f"{kind} is not allowed with sampler grid, which tries every value; use integer or choice"


def first_points_fit(sweep: Sweep) -> Iterator[Finding]:
    """Points to try first that no method can try, or that are duplicates."""
    space, first = sweep.search.space, sweep.search.first
    searched = [set(space_keys(sweep, method).values()) for method in sweep.methods]
    for place, point in enumerate(first):
        path: Path = ("search", "first", place)
        if point in first[:place]:
            yield (path,), "is there twice; every point must differ"
        wrong = [(key, message) for key, value in point.items() if (message := _misfit(space, key, value))]
        yield from ((((*path, key),), message) for key, message in wrong)
        if not wrong and not any(point.keys() <= keys for keys in searched):
            yield (path,), "no method searches all of these keys; write one point per method"


def first_points_are_tried(sweep: Sweep) -> Iterator[Finding]:
    """Points to try first beyond a method's budget, which would not be tried at all."""
    for method in sweep.methods:
        given, budget = len(first_points(sweep, method)), configurations_of(sweep, method.name)
        if given > budget:
            message = f"{method.name} would try {budget} of its {given} points; raise budget.configurations to {given}"
            yield (("search", "first"), ("budget", "configurations")), f"{message}, or leave some out"


def best_can_be_kept(sweep: Sweep) -> Iterator[Finding]:
    """`keep: best` where nothing defines the best step, or where more than values would have to be restored."""
    several = "best is not allowed with several metrics; the best step is that of one, so choose objective.metric"
    unknown = "best is not allowed without training.validate_steps; give it the optimizer steps between validations"
    for place, method in enumerate(sweep.methods):
        keys = space_keys(sweep, method)
        if not method.trains or "best" not in tried_values(sweep, method, "training.keep"):
            continue
        at = _at(keys["training.keep"]) if "training.keep" in keys else (("training", "keep"),)
        if None in tried_values(sweep, method, "training.validate_steps"):
            yield at, unknown
        if sweep.objective.metrics:
            yield at, several
        if method.refreshes:
            message = f"{shown(method.type)} is not allowed with training.keep: best, which brings back trained values"
            yield (("methods", place, "type"),), f"{message} and no earlier mask; leave out one of the two"


def lora_has_one_scale(sweep: Sweep) -> Iterator[Finding]:
    """alpha and alpha_over_rank of one method, one of them searched."""
    for place, method in enumerate(sweep.methods):
        keys = space_keys(sweep, method)
        searched = [name for name in ("alpha", "alpha_over_rank") if f"method.{name}" in keys]
        other = {"alpha": "alpha_over_rank", "alpha_over_rank": "alpha"}
        for name in searched[:1]:
            if other[name] in searched or getattr(method, other[name], None) is not None:
                message = f"is not allowed beside {other[name]} of {method.name}; give one of the two"
                yield (*_at(keys[f"method.{name}"]), ("methods", place)), message


def decay_decays(sweep: Sweep) -> Iterator[Finding]:
    """Weight decay to the base whose strength is 0 in every configuration."""
    for method in sweep.methods:
        keys, tried = space_keys(sweep, method), partial(tried_values, sweep, method)
        if "base" in tried("training.decay_to") and not any(tried("training.weight_decay")):
            at = _at(keys["training.decay_to"]) if "training.decay_to" in keys else (("training", "decay_to"),)
            yield at, "has no effect with training.weight_decay 0; give that, or leave this out"
            return


def entries_have_ages(sweep: Sweep) -> Iterator[Finding]:
    """Optimizers with bias correction by one step count, with masks whose entries have different ages."""
    for place, method in enumerate(sweep.methods):
        keys = space_keys(sweep, method)
        named = [str(each).lower() for each in tried_values(sweep, method, "training.optimizer")]
        for optimizer in set(named) & _COUNT_STEPS if method.entry_ages else ():
            at = _at(keys["training.optimizer"]) if "training.optimizer" in keys else (("training", "optimizer"),)
            message = f"{optimizer} is not allowed with {method.type}, which chooses some entries later than others"
            yield (*at, ("methods", place, "type")), f"{message}: it counts one number of steps for all; use adamw"


def batch_divides(sweep: Sweep) -> Iterator[Finding]:
    """Batches that the workers of a slot cannot share evenly, for any method and any searched value."""
    findings = (found for method in sweep.methods for found in _uneven_batch(sweep, method))
    yield from dict.fromkeys(findings)


def _at(key: str, *more: str | int) -> tuple[Path, ...]:
    return (("search", "space", key, *more),)


def _allowed(known: Sequence[str]) -> str:
    return f"; allowed are {', '.join(known)}"


def _misfit(space: Mapping[str, Range], key: str, value: object) -> str | None:
    if key not in space:
        return f"is not a key of search.space{did_you_mean(key, space, _CLOSE) or _allowed(list(space) or ['none'])}"
    if holds(space[key], value):
        return None
    return f"{shown(value)} is not allowed; search.space has {shown(space[key].model_dump(mode='json'))} here"


def _misfit_of_all(method: MethodSpec, values: Mapping[str, object]) -> str | None:
    """Why a method refuses values together, each of which it takes."""
    try:
        type(method).model_validate({**dict(method), **values})
    except ValidationError as error:
        of_all = [each for each in error.errors(include_url=False) if not each["loc"]]
        return str(of_all[0].get("ctx", {}).get("error", of_all[0]["msg"])) if of_all else None
    return None


def _refused_values(
    key: str, section: MethodSpec | TrainingSpec, field: str, values: Range
) -> Iterator[tuple[tuple[Path, ...], str]]:
    model = type(section)
    kind = next(iter(type(values).model_fields))
    types = leaf_types(model.model_fields[field].annotation)
    if not isinstance(values, ChoiceRange) and not types & {int, float}:
        yield _at(key), f"{kind} is not allowed; {field} is not a number, so use {{choice: [a, b, ...]}}"
    elif not isinstance(values, ChoiceRange | IntegerRange) and float not in types:
        yield _at(key), f"{kind} is not allowed; {field} is a whole number, so use integer or choice"
    else:
        for place, value in enumerate(extremes(values)):
            try:
                model.model_validate(data := {**dict(section), field: value})
            except ValidationError as error:
                for path, errors in by_path(error.errors(include_url=False), data).items():
                    if path:  # what has none is between fields, see options_fit_together
                        yield _at(key, kind, place), explain(errors, model)


def _uneven_batch(sweep: Sweep, method: MethodSpec) -> Iterator[tuple[tuple[Path, ...], str]]:
    keys = space_keys(sweep, method)
    fields = ("batch_size", "micro_batch_size")
    paths = [_at(keys[f"training.{field}"])[0] for field in fields if f"training.{field}" in keys]
    paths += [("training", "batch_size"), ("training", "micro_batch_size"), ("resources", "workers_per_slot")]
    workers = sweep.resources.workers_per_slot
    batches, micros = (_values(sweep, method, field) for field in fields)
    for batch, micro in ((batch, micro) for batch in batches for micro in micros if batch % (micro * workers)):
        product = f"micro_batch_size x workers_per_slot = {micro} x {workers} = {micro * workers}"
        yield tuple(paths), f"batch_size {batch} is not allowed; must be a multiple of {product}"
        return


def _values(sweep: Sweep, method: MethodSpec, field: str) -> Sequence[int]:
    """The values of a training field in the search, or its only value; empty where one is invalid."""
    key = space_keys(sweep, method).get(f"training.{field}")
    values = None if key is None else points(sweep.search.space[key])
    if isinstance(values, range):
        # Not all need be tried: of numbers in a row that all divide a batch, or are all multiples of one, there are
        # fewer, for the smallest number that 1 to 43 divide is beyond any batch size.
        return values[:43] if values.start > 0 else ()
    return tried_values(sweep, method, f"training.{field}")
