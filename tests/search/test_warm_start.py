"""What earlier sweeps have found is known to the study, and counts for nothing else."""

from pathlib import Path

import pytest
from optuna.trial import TrialState

from gallop_ray.search.study import Studies
from gallop_ray.search.warm_start import known_points, refused_warm_start
from tests.search.test_study import WIDE, finish, folder_of, make, run_all, trials

NAME = "gallop"


def earlier(tmp_path: Path, budget: int = 6) -> Path:
    sweep = make(tmp_path / "earlier", budget, sampler="random", space=WIDE)
    folder = folder_of(sweep)
    run_all(sweep, folder)
    return folder.path


def test_finished_configurations_of_an_earlier_sweep_are_known_once_and_are_no_runs(tmp_path: Path) -> None:
    place = earlier(tmp_path)
    (tmp_path / "now").mkdir()
    sweep = make(tmp_path / "now", 5, space=WIDE, warm_start=[str(place)])
    assert list(refused_warm_start(sweep)) == []
    assert len(known_points(sweep, "gallop")) == 6
    folder = folder_of(sweep)
    keys = run_all(sweep, folder, kill_every=3)
    assert len(set(keys)) == 10, "the budget is of this sweep alone: five of each method"
    assert {each.key for each in folder.configurations()} == set(keys)
    found = trials(folder, NAME)
    told = [each for each in found if "warm start" in each.user_attrs]
    assert len(told) == 6, "also after several starts"
    assert all(each.state == TrialState.COMPLETE and each.user_attrs.keys() == {"warm start"} for each in told)
    best = max(told, key=lambda each: each.value)
    assert best.value == pytest.approx(500 * best.params["training.learning_rate"])
    assert {each.user_attrs["warm start"].rpartition("/")[0] for each in told} == {str(place)}


def test_a_sampler_that_is_told_enough_goes_by_it_from_the_first_configuration_on(tmp_path: Path) -> None:
    place = earlier(tmp_path, budget=10)
    (tmp_path / "now").mkdir()
    sweep = make(tmp_path / "now", 8, space=WIDE, warm_start=[str(place)])
    folder = folder_of(sweep)
    studies = Studies(sweep, folder)
    key = studies.next()
    assert key is not None
    (chosen,) = [each for each in trials(folder, NAME) if each.user_attrs.get("configuration") == key]
    blind = folder_of(make(tmp_path / "blind", 8, space=WIDE))
    first = Studies(make(tmp_path / "blind", 8, space=WIDE), blind).next()
    drawn = blind.configuration(first or "").configuration().training["learning_rate"]
    assert chosen.params["training.learning_rate"] != drawn
    finish(folder, key)
    studies.tell(key)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"objective": {"metric": "val_id_accuracy"}}, "went by val_mean_accuracy, this sweep by val_id_accuracy"),
        ({"space": {"training.learning_rate": {"log": [1e-6, 1e-3]}}}, "has no method with the options and the search"),
        ({"sampler": "random"}, "is not allowed with random, which takes no such results"),
        ({"warm_start": ["/nowhere"]}, "/nowhere does not exist"),
    ],
)
def test_what_says_nothing_about_this_search_is_refused(tmp_path: Path, changed: dict, said: str) -> None:
    place = earlier(tmp_path, budget=1)
    asked = {"space": WIDE, "warm_start": [str(place)], **changed}
    ((path, message),) = refused_warm_start(make(tmp_path, 3, **asked))
    assert path[:2] == ("search", "warm_start")
    assert said in message


def test_integers_of_a_field_of_floats_are_known_too(tmp_path: Path) -> None:
    space = {"training.weight_decay": {"integer": [0, 3]}, **WIDE}
    (tmp_path / "before").mkdir()
    before = make(tmp_path / "before", 6, sampler="random", space=space)
    run_all(before, folder := folder_of(before))
    (tmp_path / "now").mkdir()
    sweep = make(tmp_path / "now", 5, space=space, warm_start=[str(folder.path)])
    run_all(sweep, now := folder_of(sweep))
    told = [each for each in trials(now, NAME) if "warm start" in each.user_attrs]
    assert {type(each.params["training.weight_decay"]) for each in told} == {int}
