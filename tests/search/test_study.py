"""What the studies propose, and that a kill at any moment neither loses a configuration nor repeats one."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest

from gallop_ray.analysis.ranking import best_of_search
from gallop_ray.records.folders import SweepFolder
from gallop_ray.search.study import Studies
from gallop_ray.spec.compare import differences
from gallop_ray.spec.schema import Sweep
from gallop_ray.sweep.driver import located

pytestmark = pytest.mark.slow

SAMPLERS = ("tpe", "random", "grid", "nsga2")
GRID = {
    "gallop.density": {"choice": [0.01, {"lora_rank": 8}]},
    "lora.rank": {"integer": [2, 4]},
    "training.schedule": {"choice": ["linear", "cosine"]},
}
WIDE = {"training.learning_rate": {"log": [1e-5, 1e-3]}, "gallop.density": {"linear": [0.01, 0.1]}}


def make(tmp: Path, budget: int = 20, seeds: int = 1, objective: dict[str, Any] | None = None, **search: Any) -> Sweep:
    return Sweep.model_validate(
        {
            "name": "studied",
            "output": str(tmp),
            "model": {"name": "pocket"},
            "data": {"root": "generated", "train": "range", "ood": ["max"]},
            "methods": [{"type": "gallop"}, {"type": "lora"}],
            "seeds": seeds,
            "search": search,
            "objective": objective or {},
            "budget": {"configurations": budget},
        }
    )


def folder_of(sweep: Sweep) -> SweepFolder:
    folder = SweepFolder(Path(sweep.output) / sweep.name)
    folder.create(sweep.model_dump(mode="json"))
    return folder


def finish(folder: SweepFolder, key: str, seeds: int = 1, status: str = "finished") -> None:
    """End a configuration with accuracies that depend on its learning rate."""
    configuration = folder.configuration(key)
    rate = configuration.configuration().training["learning_rate"]
    for seed in range(seeds):
        run = configuration.run(seed)
        run.start({}, "slot-0")
        metrics = {"val_mean_accuracy": 500 * rate + 0.1 * seed, "val_id_accuracy": rate, "val_forget_ratio": rate**2}
        run.finish({"configuration": key, "seed": seed, "status": status, "reason": None, **metrics})
    configuration.write_status(status, list(range(seeds)), 0.5)


def run_all(sweep: Sweep, folder: SweepFolder, kill_every: int = 10**9) -> list[str]:
    """Keys in the order they were handed out, with a fresh start of the studies after every so many steps."""
    studies, keys, steps = Studies(sweep, folder), [], 0
    while (key := studies.next()) is not None:
        keys.append(key)
        steps += 1
        if steps % kill_every == 0:
            studies = Studies(sweep, folder)
            continue
        finish(folder, key)
        if steps % kill_every != 1:  # else the process dies after the result, before the study is told
            studies.tell(key)
        else:
            studies = Studies(sweep, folder)
    return keys


def trials(folder: SweepFolder, name: str) -> list[optuna.trial.FrozenTrial]:
    backend = optuna.storages.journal.JournalFileBackend(str(folder.path / "study.journal"))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend)).trials


def chosen(folder: SweepFolder, key: str, path: str) -> Any:
    return folder.configuration(key).configuration().option(path)


def test_a_grid_is_every_point_once_in_a_fixed_order(tmp_path: Path) -> None:
    sweep = make(tmp_path, sampler="grid", space=GRID)
    folder = folder_of(sweep)
    keys = run_all(sweep, folder)
    points = [
        (chosen(folder, key, "method.density"), chosen(folder, key, "training.schedule"))
        for key in keys
        if key.startswith("gallop")
    ]
    assert points == [
        (0.01, "linear"), ({"lora_rank": 8}, "linear"), (0.01, "cosine"), ({"lora_rank": 8}, "cosine"),
    ]  # fmt: skip
    assert [chosen(folder, key, "method.rank") for key in keys if key.startswith("lora")] == [2, 3, 4, 2, 3, 4]
    assert Studies(sweep, folder).exhausted


def test_the_budget_ends_a_grid_for_each_method(tmp_path: Path) -> None:
    sweep = make(tmp_path, budget=3, sampler="grid", space=GRID)
    keys = run_all(sweep, folder_of(sweep))
    assert Counter(key.split("-")[0] for key in keys) == {"gallop": 3, "lora": 3}
    assert [key.split("-")[0] for key in keys] == ["gallop", "lora"] * 3, "asked in turn"


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_finite_space_is_tried_out_whatever_the_sampler(tmp_path: Path, sampler: str) -> None:
    sweep = make(tmp_path, sampler=sampler, space=GRID)
    keys = run_all(sweep, folder_of(sweep))
    assert Counter(key.split("-")[0] for key in keys) == {"gallop": 4, "lora": 6}
    assert len(set(keys)) == len(keys)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kill_every", [2, 3, 5])
def test_kills_lose_nothing_and_repeat_nothing(tmp_path: Path, sampler: str, kill_every: int) -> None:
    first = [{"training.schedule": "cosine"}] if sampler == "grid" else [{"training.learning_rate": 5e-4}]
    sweep = make(tmp_path, budget=6, sampler=sampler, space=GRID if sampler == "grid" else WIDE, first=first)
    folder = folder_of(sweep)
    handed_out = run_all(sweep, folder, kill_every)
    expected = {"gallop": 4 if sampler == "grid" else 6, "lora": 6}
    assert Counter(key.split("-")[0] for key in set(handed_out)) == expected
    assert {c.key for c in folder.configurations()} == set(handed_out)
    assert all(c.run(0).attempt() == 1 for c in folder.configurations())
    for name, number in expected.items():
        states = Counter(trial.state.name for trial in trials(folder, name))
        assert states["COMPLETE"] == number
        assert set(states) <= {"COMPLETE", "FAIL"}, "FAIL: suggested twice"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_that_was_lost_is_made_anew_from_the_folders(tmp_path: Path, sampler: str) -> None:
    space = {**GRID, **WIDE} if sampler != "grid" else GRID
    sweep = make(tmp_path, budget=4, sampler=sampler, space=space)
    folder = folder_of(sweep)
    studies = Studies(sweep, folder)
    for _ in range(5):
        key = studies.next()
        assert key is not None
        finish(folder, key)
    begun = studies.next()
    before = {c.key for c in folder.configurations()}
    (folder.path / "study.journal").unlink()
    rest = run_all(sweep, folder)
    assert rest[0] == begun
    assert len(rest) == 3
    assert {c.key for c in folder.configurations()} == before | set(rest)
    assert all(c.run(0).attempt() == 1 for c in folder.configurations())
    for name in ("gallop", "lora"):
        assert Counter(trial.state.name for trial in trials(folder, name))["COMPLETE"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [pytest.param("tpe", marks=pytest.mark.long), *SAMPLERS[1:]])
def test_studies_in_a_database(tmp_path: Path, sampler: str) -> None:
    """Two sweeps of the same name share it; a third goes on there with what it had begun in its journal."""
    url = f"sqlite:///{tmp_path}/studies.db"
    for place in ("first", "second"):
        sweep = make(tmp_path / place, budget=3, sampler=sampler, space=GRID, storage=url)
        assert len(run_all(sweep, folder_of(sweep), kill_every=2)) >= 6
    sweep = make(tmp_path / "third", budget=2, sampler=sampler, space=GRID)
    run_all(sweep, folder_of(sweep))
    moved = make(tmp_path / "third", budget=3, sampler=sampler, space=GRID, storage=url)
    assert differences(sweep, moved) == []
    assert len(run_all(moved, folder_of(moved))) == 2
    storage = optuna.storages.RDBStorage(url)
    names = optuna.get_all_study_names(storage)
    assert len(names) == 6
    for name in names:
        states = Counter(t.state.name for t in optuna.load_study(study_name=name, storage=storage).trials)
        assert states["COMPLETE"] == 3, name
        assert set(states) <= {"COMPLETE", "FAIL"}
    assert not (folder_of(sweep).path.parent.parent / "first" / "studied" / "study.journal").exists()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite:////nowhere/studies.db", "unable to open"),
        ("postgresql://me:secret@127.0.0.1:1/studies", "psycopg|refused|failed"),
        ("nonsense", "is not the URL"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_without_the_password(tmp_path: Path, url: str, reason: str) -> None:
    sweep = make(tmp_path, storage=url)
    with pytest.raises(ValueError, match=reason) as error:
        Studies(sweep, folder_of(sweep))
    assert "search.storage" in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("sqlite:///studies.db", "sqlite:///{here}/studies.db"),
        ("sqlite:////srv/studies.db", "sqlite:////srv/studies.db"),
        ("postgresql://HOST/studies", "postgresql://HOST/studies"),
        (None, None),
    ],
)
def test_a_file_of_studies_is_the_same_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str | None, where: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    assert located(make(tmp_path, storage=url)).search.storage == (where and where.format(here=tmp_path.resolve()))


def test_an_earlier_sweep_is_the_same_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["runs/pilot", "/srv/sweeps/first", "s3://bucket/sweeps/early"]
    found = located(make(tmp_path, warm_start=given)).search.warm_start
    assert found == (f"{tmp_path.resolve()}/runs/pilot", *given[1:])


@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_what_no_result_decides_is_the_same_with_and_without_kills(tmp_path: Path, sampler: str) -> None:
    keys = []
    for place, kill_every in enumerate((10**9, 3)):
        sweep = make(tmp_path / str(place), budget=5, sampler=sampler, space=GRID if sampler == "grid" else WIDE)
        keys.append(set(run_all(sweep, folder_of(sweep), kill_every)))
    assert keys[0] == keys[1]


def test_a_random_sweep_goes_on_after_more_restarts_than_it_may_draw_twice(tmp_path: Path) -> None:
    sweep = make(tmp_path, budget=60, sampler="random", space=WIDE)
    folder = folder_of(sweep)
    assert len(run_all(sweep, folder)) == 120
    more = sweep.model_copy(update={"budget": sweep.budget.model_copy(update={"configurations": 62})})
    assert len(run_all(more, folder)) == 4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_first_points_come_first_and_count(tmp_path: Path, sampler: str) -> None:
    first = [
        {"gallop.density": {"lora_rank": 8}, "training.schedule": "cosine"},
        {"training.schedule": "linear"},
        {"lora.rank": 4, "training.schedule": "cosine"},
    ]
    sweep = make(tmp_path, budget=3, sampler=sampler, space=GRID, first=first)
    folder = folder_of(sweep)
    keys = run_all(sweep, folder)
    gallop, lora = ([key for key in keys if key.startswith(name)] for name in ("gallop", "lora"))
    assert len(gallop) == len(lora) == 3
    assert chosen(folder, gallop[0], "method.density") == {"lora_rank": 8}
    assert chosen(folder, gallop[0], "training.schedule") == "cosine"
    assert chosen(folder, gallop[1], "training.schedule") == "linear"
    assert chosen(folder, lora[0], "training.schedule") == "linear"
    assert (chosen(folder, lora[1], "method.rank"), chosen(folder, lora[1], "training.schedule")) == (4, "cosine")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_first_points_survive_a_kill_at_any_moment_of_the_journal(tmp_path: Path, sampler: str) -> None:
    """The journal is cut after each of its lines, as a kill leaves it; the folders are as they were then or later."""
    first = [{"gallop.density": 0.01}, {"lora.rank": 3}]
    sweep = make(tmp_path, budget=2, sampler=sampler, space=GRID, first=first)
    folder = folder_of(sweep)
    studies = Studies(sweep, folder)
    for _ in range(2):
        studies.next()
    journal = folder.path / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    whole = tmp_path / "whole"
    shutil.copytree(folder.path, whole)
    for kept in range(len(lines)):
        shutil.rmtree(folder.path)
        shutil.copytree(whole, folder.path)
        journal.write_bytes(b"".join(lines[:kept]))
        again = Studies(sweep, folder)
        keys = [key for _ in range(4) if (key := again.next())]
        assert len(set(keys)) == 4
        assert 0.01 in [chosen(folder, key, "method.density") for key in keys if key.startswith("gallop")]
        assert 3 in [chosen(folder, key, "method.rank") for key in keys if key.startswith("lora")]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_several_objectives_are_told_each_in_its_direction(tmp_path: Path, sampler: str) -> None:
    objective = {"metrics": ["val_id_accuracy", "val_forget_ratio"]}
    sweep = make(tmp_path, budget=12, objective=objective, sampler=sampler, space=WIDE)
    folder = folder_of(sweep)
    run_all(sweep, folder, kill_every=5)
    told = [trial for trial in trials(folder, "lora") if trial.state.name == "COMPLETE"]
    assert len(told) == 12
    for trial in told:
        rate = trial.params["training.learning_rate"]
        assert trial.values == pytest.approx([rate, rate**2])
    backend = optuna.storages.journal.JournalFileBackend(str(folder.path / "study.journal"))
    study = optuna.load_study(study_name="lora", storage=optuna.storages.JournalStorage(backend))
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]


def test_the_study_is_told_the_mean_less_standard_errors(tmp_path: Path) -> None:
    sweep = make(tmp_path, 1, seeds=2, objective={"standard_errors": 2}, sampler="random", space=WIDE)
    folder = folder_of(sweep)
    studies = Studies(sweep, folder)
    key = studies.next()
    assert key is not None
    finish(folder, key, seeds=2)
    studies.tell(key)
    rate = chosen(folder, key, "training.learning_rate")
    # Accuracies x and x + 0.1: their standard deviation is 0.1 / sqrt(2), the standard error 0.05.
    assert trials(folder, key.split("-")[0])[0].value == pytest.approx(500 * rate + 0.05 - 2 * 0.05)


@pytest.mark.parametrize(("status", "state"), [("pruned", "PRUNED"), ("failed", "FAIL"), ("diverged", "FAIL")])
def test_how_configurations_end_is_told(tmp_path: Path, status: str, state: str) -> None:
    sweep = make(tmp_path, 1, sampler="random", space=WIDE)
    folder = folder_of(sweep)
    studies = Studies(sweep, folder)
    key = studies.next()
    assert key is not None
    finish(folder, key, status="finished" if status == "pruned" else status)
    folder.configuration(key).write_status(status, [0])
    studies.tell(key)
    trial = trials(folder, key.split("-")[0])[0]
    assert trial.state.name == state
    assert (trial.value is not None) == (status == "pruned")


@pytest.mark.parametrize("race", [None, "val_id_accuracy", "val_forget_ratio"])
def test_a_search_goes_by_what_races_go_by_and_the_best_by_the_metric(tmp_path: Path, race: str | None) -> None:
    sweep = make(tmp_path, budget=4, space=WIDE, objective={"metric": "val_mean_accuracy", "race": race})
    folder = folder_of(sweep)
    run_all(sweep, folder)
    told = {each.user_attrs["configuration"]: each.values for each in trials(folder, "lora")}
    for key, values in told.items():
        (result,) = folder.configuration(key).results()
        assert values == [result.value(race or "val_mean_accuracy")]
    backend = optuna.storages.journal.JournalFileBackend(str(folder.path / "study.journal"))
    study = optuna.load_study(study_name="lora", storage=optuna.storages.JournalStorage(backend))
    assert (study.direction.name == "MINIMIZE") == (race == "val_forget_ratio"), "less is better of what is forgotten"
    best = best_of_search(folder.results(), sweep.objective)[0]
    most = max(each.value("val_mean_accuracy") or 0.0 for each in folder.results())
    assert best.values == (most,)
