"""Optuna's samplers by their names in the sweep file, and any sampler class."""

import inspect
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import optuna

from gallop_ray.spec.checks import is_begun
from gallop_ray.spec.plan import population_size
from gallop_ray.spec.plugins import is_reference, load_object
from gallop_ray.spec.problems import Path, did_you_mean, first_line
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.search import SAMPLERS, SearchSpec

_CLASSES = {
    "gp": "GPSampler",
    "cmaes": "CmaEsSampler",
    "nomad": "gallop_ray.search.nomad:NomadSampler",
}
_PACKAGES = {"cmaes": "cmaes", "nomad": "PyNomad"}
"""What samplers need, of the optional extra [samplers]."""
_OF_ONE = ("cmaes", "nomad")  # objective


def make_sampler(search: SearchSpec, wanted: int, blind: int, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler of a study of `wanted` configurations, the first `blind` of which it does not choose.

    Raises ValueError for a class that is not a sampler, and for options that it does not take.
    """
    if search.sampler == "tpe":
        # constant_liar counts active points as bad: slots that ask at the same time would else get nearly the same one.
        return optuna.samplers.TPESampler(
            n_startup_trials=blind, seed=seed, multivariate=True, group=True, constant_liar=True
        )
    if search.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(population_size=population_size(wanted), seed=seed)
    if search.sampler in ("random", "grid"):  # whose points are known beforehand
        return optuna.samplers.RandomSampler(seed=seed)
    kind = _class(_CLASSES.get(search.sampler, search.sampler))
    takes = inspect.signature(kind).parameters
    given = {"seed": seed, **({"n_startup_trials": blind} if search.sampler in _CLASSES else {})}
    try:
        made: optuna.samplers.BaseSampler = kind(
            **{**{name: value for name, value in given.items() if name in takes}, **search.sampler_options}
        )
    except (TypeError, ValueError, ImportError) as error:
        raise ValueError(f"{search.sampler} cannot be made: {first_line(error)}") from error
    return made


def refused_sampler(sweep: Sweep) -> Iterator[tuple[Path, str]]:
    """The problem with a sampler that is given by its class or needs a package, if any: path in the sweep, and why."""
    name = sweep.search.sampler
    if name in _OF_ONE and len(sweep.objective.all_metrics) > 1:
        yield ("search", "sampler"), f"is not allowed with several objectives; {name} goes by one"
    elif name in _CLASSES and sweep.pruning.type == "asha" and not is_begun(sweep):
        message = f"{name} learns from what has finished alone, and few do; choose tpe, or another pruning"
        yield ("search", "sampler"), f"is not allowed with asha: {message}"
    elif (package := _PACKAGES.get(name)) and find_spec(package) is None:
        yield ("search", "sampler"), "needs a package: pip install 'gallop_ray[samplers]'"
    elif name not in SAMPLERS or name in _CLASSES:
        try:
            make_sampler(sweep.search, 1, 0, 0)
        except ValueError as error:
            yield ("search", "sampler"), f"is not allowed; {error}"


def _class(name: str) -> Any:
    known = [each for each in dir(optuna.samplers) if each.endswith("Sampler")]
    if not is_reference(name) and name not in known:
        hint = did_you_mean(name, known) or f"; it has {', '.join(known)}"
        raise ValueError(f"Optuna {optuna.__version__} has no {name}{hint}")
    found = load_object(name) if is_reference(name) else getattr(optuna.samplers, name)
    if not isinstance(found, type) or not issubclass(found, optuna.samplers.BaseSampler):
        raise ValueError(f"{name} is no optuna.samplers.BaseSampler")
    return found
