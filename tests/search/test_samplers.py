"""Samplers by name, by their class in Optuna, and of one's own."""

import math
import sys
from pathlib import Path

import optuna
import pytest

from gallop_ray.records.folders import SweepFolder
from gallop_ray.search.samplers import make_sampler, refused_sampler
from gallop_ray.search.study import Studies
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.search import PruningSpec

OWN = """\
from optuna.samplers import BaseSampler


class Middle(BaseSampler):
    def __init__(self, share=0.5):
        self.share = share

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, name, distribution):
        return distribution.low + self.share * (distribution.high - distribution.low) + 1e-6 * trial.number
"""


def a_sweep(tmp_path: Path, **search) -> Sweep:
    return Sweep.model_validate(
        {
            "name": "own",
            "output": str(tmp_path),
            "model": {"name": "pocket"},
            "data": {"root": "generated", "train": "range"},
            "methods": [{"type": "random"}],
            "budget": {"configurations": 3},
            "search": {"space": {"training.learning_rate": {"linear": [0.001, 0.1]}}, **search},
        }
    )


def rates(sweep: Sweep, tmp_path: Path) -> list[float]:
    """The learning rates that a search tries."""
    folder = SweepFolder(tmp_path / sweep.name)
    folder.create(sweep.model_dump(mode="json"))
    studies, found = Studies(sweep, folder), []
    while (key := studies.next()) is not None:
        found.append(folder.configuration(key).configuration().training["learning_rate"])
    return found


def test_a_sampler_of_ones_own_decides_from_the_first_configuration_on(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "own_samplers.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    sweep = a_sweep(tmp_path, sampler="own_samplers:Middle", sampler_options={"share": 0.25})
    assert list(refused_sampler(sweep)) == []
    assert rates(sweep, tmp_path) == pytest.approx([0.02575] * 3, abs=1e-4)
    sys.modules.pop("own_samplers")


def test_any_sampler_of_optuna_goes_by_its_class(tmp_path: Path) -> None:
    sweep = a_sweep(tmp_path, sampler="QMCSampler", sampler_options={"qmc_type": "halton"})
    assert isinstance(make_sampler(sweep.search, 3, 0, 0), optuna.samplers.QMCSampler)
    assert len(rates(sweep, tmp_path)) == 3


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"sampler": "QMSampler"}, "has no QMSampler; did you mean `QMCSampler`?"),
        ({"sampler": "QMCSampler", "sampler_options": {"qmc": 1}}, "unexpected keyword argument 'qmc'"),
        ({"sampler": "json:JSONDecoder"}, "json:JSONDecoder is no optuna.samplers.BaseSampler"),
    ],
)
def test_a_sampler_that_cannot_be_is_told(tmp_path: Path, search, said: str) -> None:
    ((path, message),) = refused_sampler(a_sweep(tmp_path, **search))
    assert path == ("search", "sampler")
    assert said in message


def test_an_unknown_name_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean `nsga2`"):
        a_sweep(tmp_path, sampler="nsga")


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["gp", "cmaes", pytest.param("nomad", marks=pytest.mark.long)])
def test_a_sampler_that_learns_finds_the_best_of_a_range(tmp_path: Path, sampler: str) -> None:
    """A hill over the logarithm of the rate: what is asked for after the blind half lies nearer to its top."""
    sweep = a_sweep(tmp_path, sampler=sampler, space={"training.learning_rate": {"log": [1e-4, 1.0]}})
    sweep = sweep.model_copy(update={"budget": sweep.budget.model_copy(update={"configurations": 12}), "seeds": (0,)})
    assert list(refused_sampler(sweep)) == []
    folder = SweepFolder(tmp_path / sweep.name)
    folder.create(sweep.model_dump(mode="json"))
    studies, away = Studies(sweep, folder), []
    while (key := studies.next()) is not None:
        found = abs(math.log10(folder.configuration(key).configuration().training["learning_rate"]) + 2.5)
        away.append(found)
        run = folder.configuration(key).run(0)
        run.start({}, "slot-0")
        run.finish(
            {"configuration": key, "seed": 0, "status": "finished", "reason": None, "val_id_accuracy": 1 - found / 4}
        )
        folder.configuration(key).write_status("finished", [0], 0.5)
        studies.tell(key)
    assert len(away) == 12
    assert min(away[6:]) <= min(away[:6])
    assert sum(away[6:]) < sum(away[:6])


def test_a_sampler_of_one_objective_and_one_without_its_package_are_told(tmp_path: Path, monkeypatch) -> None:
    both = {"objective": {"metrics": ["val_id_accuracy", "val_id_loss"]}}
    sweep = Sweep.model_validate({**a_sweep(tmp_path, sampler="nomad").model_dump(mode="json"), **both})
    assert [message for _, message in refused_sampler(sweep)] == [
        "is not allowed with several objectives; nomad goes by one"
    ]
    monkeypatch.setattr("gallop_ray.search.samplers.find_spec", lambda name: None)
    ((path, message),) = refused_sampler(a_sweep(tmp_path, sampler="cmaes"))
    assert (path, message) == (("search", "sampler"), "needs a package: pip install 'gallop_ray[samplers]'")


@pytest.mark.parametrize("sampler", ["gp", "cmaes", "nomad"])
def test_who_learns_from_finished_configurations_alone_is_refused_with_asha(tmp_path: Path, sampler: str) -> None:
    sweep = a_sweep(tmp_path, sampler=sampler).model_copy(update={"pruning": PruningSpec(type="asha")})
    ((path, message),) = refused_sampler(sweep)
    assert path == ("search", "sampler")
    assert "choose tpe" in message
