"""What a measure says of generated texts, held against what a measure may say."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from math import isfinite
from typing import Any

from gallop_ray.spec.measures import BUILT_IN, Measure, possible
from gallop_ray.spec.plugins import load_object
from gallop_ray.spec.problems import first_line
from gallop_ray.tasks.answers import is_right, read_answer
from gallop_ray.tasks.examples import Example


def values_of(each: Measure, outputs: Sequence[str], examples: Sequence[Example]) -> list[float]:
    """What a measure says of generated texts. Raises ValueError where it fails, or gives what no measure may give."""
    if not each.function:  # `generated`
        return [float(is_right(read_answer(text, one), one)) for text, one in zip(outputs, examples, strict=True)]
    if each.needs and find_spec(each.needs) is None:
        raise ValueError(f"measure {each.name} needs a package: pip install 'gallop_ray[measures]'")
    function: Callable[[Sequence[str], Sequence[Example]], Any] = load_object(each.function)
    try:
        values = [float(value) for value in function(list(outputs), list(examples))]
    except Exception as error:  # whatever a user's own code raises
        if isinstance(error, ValueError) and each.name in BUILT_IN:
            raise
        raise ValueError(f"measure {each.function} failed: {type(error).__name__}: {first_line(error)}") from error
    if len(values) != len(examples):
        raise ValueError(f"measure {each.function} gave {len(values)} numbers for {len(examples)} examples")
    wrong = next((value for value in values if not isfinite(value) or not possible(each.name, value)), None)
    if wrong is not None:
        raise ValueError(f"measure {each.function} gave {wrong:g}; a measure gives a number from 0 to 1, 1 the best")
    return values
