"""Which values count as an edge of what was tried."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from gallop_ray.analysis.edges import edges, end_of, two_values
from gallop_ray.records.results import StoredConfiguration
from gallop_ray.spec.configuration import resolve
from gallop_ray.spec.schema import Configuration, Sweep
from gallop_ray.spec.space import Range

RANGE: TypeAdapter[Any] = TypeAdapter(Range)
RANKS = {"choice": [{"lora_rank": rank} for rank in (8, 16, 64)]}


@pytest.mark.parametrize(
    ("allowed", "value", "end"),
    [
        ({"log": [1e-4, 1e-2]}, 1.58e-4, "lowest"),  # a tenth of the two decades
        ({"log": [1e-4, 1e-2]}, 1.60e-4, None),
        ({"log": [1e-4, 1e-2]}, 7e-3, "highest"),
        ({"linear": [0, 1]}, 0.1, "lowest"),
        ({"linear": [0, 1]}, 0.11, None),
        ({"integer": [1, 21]}, 19, "highest"),
        ({"integer": [1, 21]}, 18, None),
        ({"choice": [1e-3, 3e-3, 1e-2]}, 1e-3, "lowest"),
        ({"choice": [1e-2, 3e-3, 1e-3]}, 1e-2, "highest"),  # by size, however the list is ordered
        ({"choice": [1e-3, 3e-3, 1e-2]}, 3e-3, None),
        ({"choice": [1e-3, 1e-2]}, 1e-3, "lowest"),
        ({"choice": [1e-3]}, 1e-3, None),
        ({"choice": ["linear", "cosine"]}, "linear", None),
        ({"choice": [True, False]}, True, None),
        ({"choice": [None, 8]}, 8, None),
        (RANKS, {"lora_rank": 64}, "highest"),
        (RANKS, {"lora_rank": 16}, None),
    ],
)
def test_the_end_at_which_a_value_lies(allowed: dict[str, Any], value: object, end: str | None) -> None:
    assert end_of(RANGE.validate_python(allowed), value) == end


def _stored(configuration: Configuration) -> StoredConfiguration:
    return StoredConfiguration.model_validate(configuration.model_dump(mode="json"))


def test_two_values_have_nothing_but_edges() -> None:
    few = [{"choice": [1, 2]}, {"integer": [1, 2]}]
    more = [{"choice": [1, 2, 3]}, {"choice": ["a", "b"]}, {"choice": [1]}, {"integer": [1, 3]}, {"log": [1, 2]}]
    assert [two_values(RANGE.validate_python(each)) for each in few + more] == [True] * 2 + [False] * 5


def test_an_end_beyond_which_a_field_takes_nothing_is_no_edge() -> None:
    space = {
        "gallop.selection_ratio": {"choice": [0.1, 0.5, 1.0]},
        "gallop.density": {"log": [0.01, 1]},
        "lora.rank": {"choice": [1, 2, 4]},
        "training.learning_rate": {"log": [1e-4, 1e-2]},
    }
    sweep = Sweep.model_validate(
        {
            "name": "edges",
            "model": {"name": "pocket"},
            "data": {"train": "sum"},
            "methods": [{"type": "gallop"}, {"type": "lora"}, {"type": "vanilla"}],
            "search": {"space": space},
        }
    )

    def found(method: str, **values: object) -> list[str]:
        written = {path.replace("__", "."): value for path, value in values.items()}
        return [str(each) for each in edges(sweep, _stored(resolve(sweep, method, written)))]

    free: dict[str, object] = {"training__learning_rate": 1e-3}
    assert found("gallop", method__selection_ratio=1.0, method__density=0.99, **free) == []
    assert found("lora", method__rank=1, **free) == []
    assert found("vanilla") == []
    assert found("lora", method__rank=4, training__learning_rate=1e-4) == [
        "lora's learning_rate 0.0001 is at the lowest end of {log: [0.0001, 0.01]}; widen training.learning_rate",
        "lora's rank 4 is at the highest end of {choice: [1, 2, 4]}; widen lora.rank",
    ]
