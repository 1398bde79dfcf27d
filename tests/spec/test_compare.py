"""What a sweep may change when it goes on, and what keeps it from going on."""

from gallop_ray.spec.compare import differences
from tests.spec.conftest import SMALLEST, Load

BEGUN = (
    SMALLEST
    + "seeds: 2\nsearch: {space: {gallop.density: {choice: [0.01, 0.02]}, training.epochs: {linear: [1, 2]}}}\n"
)


def changed(load: Load, *overrides: str, more: str = "") -> list[str]:
    return differences(load(text=BEGUN), load(more, *overrides, text=BEGUN))


def test_what_no_result_depends_on_may_change(load: Load) -> None:
    free = ("budget.configurations=3", "budget.hours=1", "resources.slots=2", "tracking.experiment=x", "output=there")
    assert changed(load, *free, "pruning.type=median", "name=other") == []


def test_runs_that_wait_at_a_rung_stay_comparable(load: Load) -> None:
    begun = BEGUN + "pruning: {type: race, rungs: [30]}\n"
    for overrides in (["pruning.type=median"], ["pruning.significance=0.01"], ["pruning={type: none}"]):
        assert differences(load(text=begun), load("", *overrides, text=begun)) == []
    found = differences(load(text=begun), load("", "pruning.rungs=[20]", text=begun))
    assert found == ["pruning.rungs: was [30], is [20]"]


def test_a_sweep_may_grow(load: Load) -> None:
    assert changed(load, "seeds=3", "budget.configurations=30") == []
    assert changed(load, "methods=[{type: gallop}, {type: lora}, {type: random}]") == []
    more = "search.space.random.density={choice: [0.1, 0.2]}"
    assert changed(load, "methods=[{type: gallop}, {type: lora}, {type: random}]", more) == []


def test_more_seeds_come_last(load: Load) -> None:
    assert changed(load, "seeds=[0, 1, 7]") == []
    assert changed(load, "seeds=[5, 0, 1]") == ["seeds: was [0, 1], is [5, 0, 1]; put the new ones last"]
    assert changed(load, "seeds=[1, 0]") == ["seeds: was [0, 1], is [1, 0]; put the new ones last"]


def test_what_differs_is_named_with_both_values(load: Load) -> None:
    overrides = (
        "training.learning_rate=0.5",
        "data.limits.train=7",
        "gallop.selection_ratio=0.5",
        "seeds=1",
        "search.seed=3",
    )
    assert changed(load, *overrides) == [
        "data.limits.train: was nothing, is 7",
        "training.learning_rate: was 0.0001, is 0.5",
        "gallop.selection_ratio: was 0.1, is 0.5",
        "seeds: was [0, 1], is [0]",
        "search.seed: was 0, is 3",
    ]


def test_a_space_that_a_stored_method_searches_is_fixed(load: Load) -> None:
    assert changed(load, "search.space.gallop.density={choice: [0.01]}", "search.space.lora.rank={choice: [2, 4]}") == [
        'search.space.gallop.density: was {"choice": [0.01, 0.02]}, is {"choice": [0.01]}',
        'search.space.lora.rank: was nothing, is {"choice": [2, 4]}',
    ]


def test_a_method_cannot_be_left_out_or_moved(load: Load) -> None:
    assert changed(load, "methods=[{type: lora}, {type: gallop}]") == [
        'methods: was ["gallop", "lora"], is ["lora", "gallop"]'
    ]
