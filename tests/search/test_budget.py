"""What a budget is spent on: results decide early, methods are drawn alike, a grid is whole."""

from pathlib import Path
from typing import Any

import pytest

from gallop_ray.records.folders import SweepFolder
from gallop_ray.search.study import Studies
from gallop_ray.spec.plan import configurations_of, drawn_blindly, plan_sweep
from gallop_ray.spec.schema import Sweep

RATE = {"training.learning_rate": {"log": [1e-5, 1e-1]}}


def make(tmp: Path, budget: int | None, **search: Any) -> Sweep:
    return Sweep.model_validate(
        {
            "name": "budget",
            "output": str(tmp),
            "model": {"name": "pocket"},
            "data": {"root": "generated", "train": "range", "ood": ["max"]},
            "methods": [{"type": "gallop"}, {"type": "lora"}],
            "search": search,
            "budget": {"configurations": budget},
        }
    )


def rates(sweep: Sweep, sign: int = 1) -> dict[str, list[float]]:
    """Each method's learning rates in the order in which they were begun; a larger one is better, or a smaller one."""
    folder = SweepFolder(Path(sweep.output) / sweep.name)
    folder.create(sweep.model_dump(mode="json"))
    studies, found = Studies(sweep, folder), {"gallop": list[float](), "lora": list[float]()}
    while key := studies.next():
        configuration = folder.configuration(key)
        rate = configuration.configuration().training["learning_rate"]
        found[configuration.method].append(rate)
        run = configuration.run(0)
        run.start({}, "slot-0")
        run.finish({"configuration": key, "seed": 0, "status": "finished", "val_mean_accuracy": 0.5 + sign * rate})
        configuration.write_status("finished", [0], 0.5 + sign * rate)
        studies.tell(key)
    return found


@pytest.mark.slow
def test_within_a_budget_of_eight_tpe_goes_by_results(tmp_path: Path) -> None:
    up, down = (rates(make(tmp_path / str(sign), 8, space=RATE), sign)["gallop"] for sign in (1, -1))
    assert up[:4] == down[:4], "half of the budget is drawn before any result decides"
    assert set(up[4:]).isdisjoint(down[4:]), "then the same draws with opposite results lead elsewhere"
    assert max(up[4:]) > max(down[4:])


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", pytest.param("nomad", marks=pytest.mark.long)])
def test_methods_with_a_range_in_common_draw_the_same_values_of_it(tmp_path: Path, sampler: str) -> None:
    also = {"gallop.density": {"linear": [0.01, 0.1]}, "lora.rank": {"integer": [2, 64]}}
    first = [{"gallop.density": 0.05}]  # gallop tries one point more than lora before it draws
    sweep = make(tmp_path, 12, sampler=sampler, space={**also, **RATE}, first=first)
    found, blind = rates(sweep), drawn_blindly(sweep, "lora")
    assert found["gallop"][1:blind] == found["lora"][: blind - 1]


@pytest.mark.parametrize(
    ("sampler", "budget", "blind", "learns_from"),
    [("tpe", 8, 4, 5), ("tpe", 4, 2, 3), ("tpe", 2, 2, None), ("tpe", 100, 10, 11), ("random", 8, 8, None),
     ("nsga2", 8, 4, 5), ("nsga2", 500, 50, 51), ("tpe", 1, 1, None), ("gp", 8, 4, 5),
     ("cmaes", 4, 2, 3), ("nomad", 100, 10, 11)],
)  # fmt: skip
def test_the_plan_says_from_which_configuration_on_results_decide(
    tmp_path: Path, sampler: str, budget: int, blind: int, learns_from: int | None
) -> None:
    sweep = make(tmp_path, budget, sampler=sampler, space=RATE)
    assert drawn_blindly(sweep, "gallop") == blind
    assert plan_sweep(sweep, None).methods[0].learns_from == learns_from


def test_a_grid_is_tried_whole_unless_a_budget_is_written(tmp_path: Path) -> None:
    space = {
        "training.learning_rate": {"choice": [1e-4, 1e-3, 1e-2]},
        "gallop.density": {"choice": [0.01, 0.02, 0.03, 0.04]},
    }
    whole = make(tmp_path, None, sampler="grid", space=space)
    assert [configurations_of(whole, name) for name in ("gallop", "lora")] == [12, 3]
    assert len(rates(whole)["gallop"]) == 12
    assert configurations_of(make(tmp_path, 8, sampler="grid", space=space), "gallop") == 8
    assert configurations_of(make(tmp_path, None, space=space), "gallop") == 8, "other samplers have a budget of 8"
