"""Ranges that grow where the best lies at their end: within the budget, after kills, and no further than asked."""

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from gallop_ray.analysis.advice import advice
from gallop_ray.analysis.edges import edges_of
from gallop_ray.analysis.ranking import best_of_search
from gallop_ray.records.folders import SweepFolder
from gallop_ray.search.importance import importances
from gallop_ray.search.study import Studies
from gallop_ray.search.widening import beyond
from gallop_ray.spec.configuration import configuration_key, resolve
from gallop_ray.spec.schema import Sweep
from tests.search.test_study import chosen, folder_of, make

pytestmark = pytest.mark.slow

RATES = {"training.learning_rate": {"log": [1e-5, 1e-3]}, "gallop.density": {"linear": [0.01, 0.1]}}


def finish(folder: SweepFolder, key: str, best: float) -> None:
    """End a configuration with an accuracy that is highest at one learning rate."""
    configuration = folder.configuration(key)
    value = 0.9 - 0.02 * abs(math.log(configuration.configuration().training["learning_rate"] / best))
    run = configuration.run(0)
    run.start({}, "slot-0")
    run.finish({"configuration": key, "seed": 0, "status": "finished", "reason": None, "val_mean_accuracy": value})
    configuration.write_status("finished", [0], value)


def rates(sweep: Sweep, best: float, kill_every: int = 10**9) -> list[float]:
    """The learning rates of gallop's configurations, in the order in which they were handed out."""
    folder = folder_of(sweep)
    studies, keys = Studies(sweep, folder), []
    while (key := studies.next()) is not None:
        keys.append(key)
        if len(keys) % kill_every == 0:
            studies = Studies(sweep, folder)
            continue
        finish(folder, key, best)
        studies.tell(key)
    once = dict.fromkeys(keys)
    return [chosen(folder, key, "training.learning_rate") for key in once if key.startswith("gallop")]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("kill_every", [10**9, 3, 2])
def test_a_range_grows_to_where_the_best_is(tmp_path: Path, sampler: str, kill_every: int) -> None:
    sweep = make(tmp_path, budget=16, sampler=sampler, space=RATES, widen=2)
    tried = rates(sweep, 4e-3, kill_every)
    assert len(tried) == 16, "the budget is the same"
    assert all(1e-5 <= each <= 9e-3 for each in tried)
    assert max(tried) > 1.5e-3
    assert min(abs(math.log(each / 4e-3)) for each in tried) < 0.7
    folder = SweepFolder(Path(sweep.output) / sweep.name)
    known = best_of_search(folder.results(), sweep.objective)
    assert edges_of(folder, sweep, [each for each in known if each.method == "gallop"]) == {}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_no_more_often_than_asked_and_on_either_side(tmp_path: Path, sampler: str) -> None:
    above = rates(make(tmp_path / "above", budget=24, sampler=sampler, space=RATES, widen=2), 1.0)
    assert 3e-3 < max(above) <= 9e-3
    below = rates(make(tmp_path / "below", budget=24, sampler=sampler, space=RATES, widen=1), 1e-9)
    assert 1e-5 / 3 <= min(below) < 1e-5
    assert max(below) <= 1e-3


def test_what_has_grown_is_drawn_from_like_the_rest(tmp_path: Path) -> None:
    sweep = make(tmp_path, budget=30, sampler="tpe", space=RATES, widen=1)
    assert sum(each > 1e-3 for each in rates(sweep, 2.5e-3)) > 5, "more than the one that was put there"
    assert importances(SweepFolder(Path(sweep.output) / sweep.name), sweep)["gallop"].keys() == {
        "density",
        "learning_rate",
    }


def test_a_best_inside_leaves_the_range_as_it_is(tmp_path: Path) -> None:
    space = {"training.learning_rate": {"log": [1e-6, 1e-2]}}
    assert all(1e-6 <= each <= 1e-2 for each in rates(make(tmp_path, sampler="tpe", space=space, widen=5), 1e-4))


def test_a_field_s_limit_is_no_end_to_go_beyond(tmp_path: Path) -> None:
    sweep = make(tmp_path, budget=8, sampler="random", space={"gallop.selection_ratio": {"log": [0.9, 1.0]}}, widen=3)
    folder = folder_of(sweep)
    studies = Studies(sweep, folder)
    while (key := studies.next()) is not None:
        finish(folder, key, 1e-4)
        studies.tell(key)
    ratios = [
        chosen(folder, each.key, "method.selection_ratio")
        for each in folder.configurations()
        if each.method == "gallop"
    ]
    assert len(ratios) == 8
    assert all(0.1 < each <= 1 for each in ratios)


def test_ranges_that_cannot_grow_are_refused_and_none_that_could_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="is not allowed with gp, which draws from ranges that stay"):
        make(tmp_path, widen=1, sampler="gp", space=RATES)
    of_lists = make(tmp_path, widen=1, space={"lora.rank": {"integer": [2, 8]}})
    assert "search.widen has no effect: no range is {log: [low, high]}" in advice(of_lists)
    assert not any("widen" in each for each in advice(make(tmp_path, widen=1, space=RATES)))


def test_what_has_grown_is_resumed_with_less_without_its_study_and_told_to_another(tmp_path: Path) -> None:
    sweep = make(tmp_path, budget=12, sampler="tpe", space=RATES, widen=2)
    assert max(rates(sweep, 4e-3)) > 1e-3
    folder = SweepFolder(Path(sweep.output) / sweep.name)
    narrow = make(tmp_path, budget=14, sampler="tpe", space=RATES)
    assert Studies(narrow, folder).next() is not None
    (folder.path / "study.journal").unlink()
    assert Studies(narrow, folder).next() is not None
    other = make(tmp_path / "other", budget=4, sampler="tpe", space=RATES, warm_start=[str(folder.path)])
    assert all(1e-5 <= each <= 1e-3 for each in rates(other, 4e-3))


def test_who_has_fewer_seeds_does_not_lead(tmp_path: Path) -> None:
    """Where a seed is easier than the others, one that was stopped after it would."""
    folder = SweepFolder(tmp_path)
    asked = Sweep.model_validate(
        {
            "name": "seeds",
            "model": {"name": "pocket"},
            "data": {"root": "generated", "train": "range", "ood": ["max"]},
            "methods": [{"type": "gallop"}],
            "seeds": 2,
            "search": {"widen": 1, "space": {"training.learning_rate": {"log": [1e-5, 1e-3]}}},
        }
    )
    for rate, values in {1e-3: [0.63], 1e-4: [0.62, 0.58], 2e-4: [0.61, 0.58]}.items():
        made = resolve(asked, "gallop", {"training.learning_rate": rate})
        configuration = folder.configuration(configuration_key(made))
        configuration.create(made.model_dump(mode="json"))
        for seed, value in enumerate(values):
            said = {"configuration": configuration.key, "seed": seed, "status": "finished", "reason": None}
            configuration.run(seed).start({}, "slot-0")
            configuration.run(seed).finish({**said, "val_mean_accuracy": value})
    space = {"training.learning_rate": asked.search.space["training.learning_rate"]}
    assert beyond(asked, "gallop", space, folder.configurations()) is None
