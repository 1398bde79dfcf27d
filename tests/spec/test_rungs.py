"""The rungs of a sweep file: where configurations pause, and what is refused before anything is spent."""

from typing import Any

import pytest
from pydantic import ValidationError

from gallop_ray.spec.rungs import Rung, climbs, rung_weights, rungs_of
from gallop_ray.spec.schema import Sweep


def sweep(**changes: Any) -> Sweep:
    return Sweep.model_validate(
        {
            "name": "rungs",
            "model": {"name": "pocket"},
            "data": {"root": "generated", "train": "range", "ood": ["max", "first"]},
            "methods": [{"type": "gallop"}, {"type": "vanilla"}],
            "seeds": 5,
            "search": {"space": {"gallop.training.learning_rate": {"log": [1e-5, 1e-1]}}},
            **changes,
        }
    )


def test_without_asking_nothing_climbs() -> None:
    for pruning in ({}, {"type": "race"}, {"type": "median"}):
        assert not climbs(sweep(pruning=pruning))


def test_asha_begins_at_a_ninth_of_the_steps_and_goes_on_to_seeds() -> None:
    found = rungs_of(sweep(pruning={"type": "asha"}), "gallop")
    assert [rung.step(90) for rung in found] == [10, 30, None, None, None, None]
    assert [rung.seeds for rung in found] == [0, 0, 1, 2, 3, 5]
    assert rungs_of(sweep(pruning={"type": "asha"}), "vanilla") == [Rung(5)]


def test_rungs_are_settable_in_steps_and_in_shares() -> None:
    for rungs, steps in (([20, 60], [20, 60]), ([0.5], [45])):
        found = rungs_of(sweep(pruning={"type": "race", "rungs": rungs}), "gallop")
        assert [rung.step(90) for rung in found if rung.at is not None] == steps
        assert [rung.seeds for rung in found if rung.at is None] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("objective", "weights"),
    [
        ("val_mean_accuracy", {"range": 0.5, "max": 0.25, "first": 0.25}),
        ("val_id_accuracy", {"range": 1.0}),
        ("val_forget_ratio", {"max": 0.5, "first": 0.5}),
        ("val_id_loss", {"range": 1.0}),
    ],
)
def test_tasks_count_at_a_rung_as_in_the_objective(objective: str, weights: dict[str, float]) -> None:
    assert rung_weights(sweep(objective={"metric": objective})) == pytest.approx(weights)
    assert rung_weights(sweep(objective={"race": objective})) == pytest.approx(weights), "races have the last word"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pruning": {"type": "asha", "rungs": []}}, "optimizer steps"),
        ({"pruning": {"type": "asha", "rungs": [1.5]}}, "shares of a run's steps"),
        ({"pruning": {"type": "asha", "rungs": [0.5, 20]}}, "all steps or all shares"),
        ({"pruning": {"type": "asha", "rungs": [0.5, 0.25]}}, "larger than the one before"),
        ({"pruning": {"rungs": [0.5]}}, "choose asha, race or median"),
        ({"pruning": {"type": "asha"}, "objective": {"metrics": ["val_id_accuracy", "val_ood_accuracy"]}}, "several"),
        ({"resources": {"interleave": 2}, "objective": {"metrics": ["val_id_loss", "val_ood_accuracy"]}}, "give one"),
        (
            {"pruning": {"type": "asha"}, "data": {"root": "generated", "train": ["range", "max"]}},
            "train on one task",
        ),
        ({"objective": {"race": "val_id_loss"}, "search": {"sampler": "random"}}, "no effect with sampler random"),
        (
            {"objective": {"metrics": ["val_id_accuracy", "val_ood_accuracy"], "race": "val_id_loss"}},
            "beside several metrics",
        ),
        ({"objective": {"race": "val_nothing"}}, "objective.race"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        sweep(**changes)
