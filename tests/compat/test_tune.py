"""Tune forgets trials that have ended."""

import inspect
from types import SimpleNamespace

import pytest
from ray.tune.execution.tune_controller import TuneController

from gallop_ray.compat.tune import METADATA, SETS, drop_ended_trials


class Trial:
    """What is asked of one."""

    def __init__(self, number: int, finished: bool) -> None:
        self.trial_id, self._finished = str(number), finished

    def is_finished(self) -> bool:
        return self._finished


@pytest.mark.parametrize(("count", "left"), [(64, 64), (100, 11)])
def test_what_has_ended_goes_but_for_the_last(count: int, left: int) -> None:
    trials = [Trial(number, finished=number % 10 != 0) for number in range(count)]
    listed = list(trials)
    kept = {name: set(trials) for name in SETS}
    controller = SimpleNamespace(get_trials=lambda: listed, **kept, **{METADATA: {t.trial_id: "" for t in trials}})
    drop_ended_trials(controller)
    assert len(listed) == left
    assert listed[-1] is trials[-1]
    assert all(not each.is_finished() for each in trials if each in listed[:-1]) or left == count
    assert all(found == set(listed) for found in kept.values())
    assert set(vars(controller)[METADATA]) == {trial.trial_id for trial in listed}


def test_tune_calls_it_as_we_do() -> None:
    source = inspect.getsource(TuneController)
    for name in (*SETS, METADATA):
        assert f"self.{name}" in source
