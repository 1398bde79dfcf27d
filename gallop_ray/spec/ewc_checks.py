"""Checks of elastic weight consolidation: what it is for, what it needs, and what it does nothing for."""

from collections.abc import Iterator

from gallop_ray.spec.configuration import space_keys, tried_values
from gallop_ray.spec.method import MethodSpec
from gallop_ray.spec.problems import Finding, Path
from gallop_ray.spec.schema import Sweep

_FIELD = "training.ewc"


def ewc_knows_what_to_keep(sweep: Sweep) -> Iterator[Finding]:
    """A strength without examples, or examples without a strength."""
    using = [method for method in sweep.methods if _is_used(sweep, method)]
    if using and sweep.data.fisher is None:
        message = "is not allowed without data.fisher; give the task there that is to be kept, such as {task: text}"
        yield (_written(sweep, using[0]),), message
    if sweep.data.fisher is not None and not using:
        yield (("data", "fisher"),), f"has no effect with {_FIELD} 0 for every method; give that, or leave this out"


def ewc_is_of_weights(sweep: Sweep) -> Iterator[Finding]:
    """Methods with parameters of their own, which the base model has no values of, and no examples a gradient."""
    for place, method in enumerate(sweep.methods):
        if _is_used(sweep, method) and not method.trains_weights:
            others = next((each.name for each in sweep.methods if each.trains_weights), "gallop")
            message = (
                f"{method.type} is not allowed with {_FIELD}, which holds the model's own weights: it trains "
                "parameters that the base model does not have; give it to other methods alone, as a range of "
                f"search.space such as `{others}.{_FIELD}: {{choice: [10, 100]}}`"
            )
            yield (("methods", place, "type"), _written(sweep, method)), message


def _is_used(sweep: Sweep, method: MethodSpec) -> bool:
    return method.trains and any(tried_values(sweep, method, _FIELD))


def _written(sweep: Sweep, method: MethodSpec) -> Path:
    """Where the strength of a method is written."""
    key = space_keys(sweep, method).get(_FIELD)
    return ("training", "ewc") if key is None else ("search", "space", key)
