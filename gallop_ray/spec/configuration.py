"""The points of a search space: its dotted paths, and from values to a configuration and its key."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import product
from typing import Any

from pydantic import ValidationError

from gallop_ray.spec.frozen import Frozen
from gallop_ray.spec.method import Density, MaskMethodSpec, MethodSpec
from gallop_ray.spec.plugins import is_reference
from gallop_ray.spec.schema import Configuration, Sweep
from gallop_ray.spec.space import Range, extremes, points
from gallop_ray.spec.training import TrainingSpec


def searchable(model: type[MethodSpec] | type[TrainingSpec]) -> list[str]:
    """The fields of a section that may be searched: not a method's type and name, which identify it."""
    return [field for field in model.model_fields if field not in ("type", "name")]


def offered(model: type[MethodSpec] | type[TrainingSpec]) -> list[str]:
    """The searchable fields whose values make a difference; sweeps of earlier versions may search others."""
    return [field for field in searchable(model) if model is not TrainingSpec or field not in TrainingSpec.fixed]


def normalised(path: str, method: MethodSpec) -> str | None:
    """The path as `training.<field>` or `method.<option>` where it reaches this method, else None."""
    head, _, rest = path.partition(".")
    if head == method.name:
        path = rest if rest.startswith("training.") else f"method.{rest}"
    elif head not in ("training", "method"):
        return None
    section, _, field = path.partition(".")
    # Of a method that is read from records, and perhaps not installed, the options are those that were written.
    written = (method.model_extra or {}) if section == "method" else {}
    return path if field in searchable(section_model(path, method)) or field in written else None


def section_model(normal_path: str, method: MethodSpec) -> type[MethodSpec] | type[TrainingSpec]:
    """The pydantic model that has the field of a normalised path."""
    return TrainingSpec if normal_path.startswith("training.") else type(method)


def known_paths(methods: Sequence[MethodSpec]) -> list[str]:
    """Every path that may be in a search space over these methods."""
    training = [f"training.{field}" for field in offered(TrainingSpec)]
    paths = dict.fromkeys(training)
    for method in methods:
        for option in searchable(type(method)):
            paths |= {f"method.{option}": None, f"{method.name}.{option}": None}
        paths |= {f"{method.name}.{path}": None for path in training}
    return list(paths)


def method_named(sweep: Sweep, name: str) -> MethodSpec:
    """The method with that name. Raises ValueError where there is none."""
    for method in sweep.methods:
        if method.name == name:
            return method
    raise ValueError(f"no method is named {name!r}; the methods are {', '.join(each.name for each in sweep.methods)}")


def method_space(sweep: Sweep, method_name: str) -> dict[str, Range]:
    """The ranges that one method searches, by normalised path (`method.density`, `training.learning_rate`).

    A path that begins with the method's name wins over one for every method. Options that the method does not have
    are left out.
    """
    keys = space_keys(sweep, method_named(sweep, method_name))
    return {path: sweep.search.space[key] for path, key in keys.items()}


def space_keys(sweep: Sweep, method: MethodSpec) -> dict[str, str]:
    """For each normalised path that a method searches, the key of the sweep's search space that applies."""
    if not method.trains:
        return {}
    general_first = sorted(sweep.search.space, key=lambda key: key.startswith(f"{method.name}."))
    reached = ((normalised(key, method), key) for key in general_first)
    return {path: key for path, key in reached if path is not None}


def first_points(sweep: Sweep, method: MethodSpec) -> list[dict[str, object]]:
    """The points that a method tries first, by normalised path: those all of whose keys it searches."""
    paths = {key: path for path, key in space_keys(sweep, method).items()}
    return [
        {paths[key]: value for key, value in point.items()}
        for point in sweep.search.first
        if point.keys() <= paths.keys()
    ]


def tried_values(sweep: Sweep, method: MethodSpec, path: str) -> list[Any]:
    """What a field can be in a method's configurations, as the field takes it: its own value, or those searched.

    Of a range its ends. path: normalised, such as `training.optimizer`. A value that the field refuses is left out.
    """
    section: Frozen = sweep.training if path.startswith("training.") else method
    field = path.partition(".")[2]
    key = space_keys(sweep, method).get(path)
    if key is None:
        return [getattr(section, field)]
    found = []
    for value in extremes(sweep.search.space[key]):
        with suppress(ValidationError):
            found.append(getattr(type(section).model_validate({**dict(section), field: value}), field))
    return found


def trainings(sweep: Sweep, method: MethodSpec) -> list[TrainingSpec]:
    """The trainings of a method that differ in what an optimizer or a schedule is made of."""
    fields = ("optimizer", "optimizer_options", "schedule", "weight_decay")
    every = product(*(tried_values(sweep, method, f"training.{field}") for field in fields))
    return [sweep.training.model_copy(update=dict(zip(fields, values, strict=True))) for values in every]


def names_code(training: TrainingSpec) -> bool:
    """Whether its optimizer or schedule is more than what is always there, so that it has to be tried."""
    return training.optimizer != "adamw" or bool(training.optimizer_options) or is_reference(training.schedule)


def variants(sweep: Sweep, method: MethodSpec, *options: str) -> list[MethodSpec]:
    """A method with every value of these options that its configurations may have, of ranges the ends."""
    had = [option for option in options if option in type(method).model_fields]
    every = product(*(tried_values(sweep, method, f"method.{option}") for option in had))
    return [method.model_copy(update=dict(zip(had, values, strict=True))) for values in every]


def densities(sweep: Sweep, method: MaskMethodSpec) -> list[Density]:
    """The densities of a method in a sweep: all of them, or the ends of a range."""
    return tried_values(sweep, method, "method.density")


def listed_densities(sweep: Sweep, method: MaskMethodSpec) -> list[Density]:
    """The densities that a method will certainly be tried with or may be by choice; none where they are a range."""
    searched = method_space(sweep, method.name).get("method.density")
    return densities(sweep, method) if searched is None or points(searched) is not None else []


def selection_ratios(sweep: Sweep, method: MethodSpec) -> list[float | None]:
    """The selection ratios of a method in a sweep; none where they are a continuous range."""
    searched = method_space(sweep, method.name).get("method.selection_ratio")
    values = (points(searched) or ()) if searched else (getattr(method, "selection_ratio", None),)
    return [None if value is None else float(str(value)) for value in values]


def fixed_scores(sweep: Sweep, method: MethodSpec) -> bool:
    """Whether no options of a method but density and selection ratio are searched."""
    varied = {path for path in method_space(sweep, method.name) if path.startswith("method.")}
    return varied <= {"method.density", "method.selection_ratio"}


def resolve(sweep: Sweep, method_name: str, values: Mapping[str, object]) -> Configuration:
    """The configuration with these values at normalised paths, everything else as the sweep file has it.

    Raises ValueError for a path or value that the method or the training does not take.
    """
    method = method_named(sweep, method_name)
    parts = {"method": dict(method), "training": dict(sweep.training)}
    for path, value in values.items():
        section, _, field = path.partition(".")
        if section not in parts:
            raise ValueError(f"{path!r} does not begin with `method.` or `training.`")
        parts[section][field] = value
    return Configuration.model_validate({**parts, "method": type(method).model_validate(parts["method"])})


def configuration_key(configuration: Configuration) -> str:
    """`<method name>-<8 hex digits>`: the same for equal configurations, and usable as a folder's name."""
    return f"{configuration.method.name}-{content_hash(configuration.model_dump(mode='json'))}"


def content_hash(content: Mapping[str, Any]) -> str:
    """The 8 hex digits of a configuration as JSON, whichever version and method it is of."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def asked(configuration: Configuration, seed: int) -> dict[str, Any]:
    """A run's identity and settings, which are part of every result, however the run ends.

    The learning rate is None where it follows the density, which is known once the run trains.
    """
    method, training = configuration.method, configuration.training
    return {
        "seed": seed,
        "method": method.name,
        "method_type": method.type,
        "selection_ratio": getattr(method, "selection_ratio", None),
        "learning_rate": training.learning_rate if method.trains and not training.density_exponent else None,
    }
