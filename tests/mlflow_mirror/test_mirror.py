"""The mirror against a real MLflow in SQLite, from run folders written as a worker and a driver write them."""

import getpass
import json
import logging
import shutil
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from gallop_ray.mlflow_mirror.mirror import MlflowMirror
from gallop_ray.mlflow_mirror.store import MlflowStore, metric_name, tracking_uri
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.spec.schema import Sweep

DEAD = "http://somebody:secret@127.0.0.1:9"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """MLflow's tables take seconds to make: they are made once and copied."""
    from mlflow import MlflowClient

    # On a busy machine another test's mirror may still make its own tables, and alembic does that once a process.
    for thread in threading.enumerate():
        if thread.name == "mlflow-mirror":
            thread.join(120)
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def sweep(tmp_path, empty_database, monkeypatch) -> Sweep:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return Sweep.model_validate(
        {
            "name": "demo",
            "output": str(tmp_path),
            "model": {"name": "pocket"},
            "data": {"train": "arc", "ood": ["boolq"]},
            "methods": [{"type": "gallop"}],
            "seeds": 2,
            "search": {"space": {"gallop.eps": {"log": [1e-9, 1e-7]}, "method.density": {"choice": [0.01, 0.1]}}},
        }
    )


def begin(sweep: Sweep, key: str = "gallop-1") -> SweepFolder:
    folder = SweepFolder(Path(sweep.output) / sweep.name)
    folder.create(sweep.model_dump(mode="json"))
    method = {"type": "gallop", "name": "gallop", "density": 0.01, "selection_ratio": 0.1, "eps": 1e-8}
    folder.configuration(key).create({"method": method, "training": {"learning_rate": 0.001}})
    return folder


def train(run: RunFolder, steps: range) -> None:
    for step in steps:
        run.event("step", step=step, steps=3, loss=1 / step, learning_rate=1e-3, grad_norm=None)


def run_seed(run: RunFolder, accuracy: float, status: str = "finished") -> None:
    run.start({"seed": run.seed}, slot="slot-0")
    run.write("mask", {"chosen": 10})
    train(run, range(1, 4))
    reason = None if status == "finished" else "the loss became NaN"
    run.finish(
        {
            "configuration": run.configuration,
            "seed": run.seed,
            "status": status,
            "reason": reason,
            "id_accuracy": accuracy,
            "forget_ratio": float("nan"),
            "seconds": {"total": 2.0},
            "ended": 2e9,
        }
    )


def mirror(folder: SweepFolder, sweep: Sweep, uri: str | None = None, finished: bool = True) -> bool:
    thread = MlflowMirror(folder, sweep, uri or tracking_uri(sweep))
    thread.start()
    return thread.stop(timeout=50, finished=finished)


def mlflow_runs(sweep: Sweep) -> dict:
    """All runs by readable path: sweep, sweep/configuration, sweep/configuration/seed n."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri(sweep))
    experiment = client.get_experiment_by_name(sweep.tracking.experiment)
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}

    def path(run) -> str:
        parent, tags = run.data.tags.get("mlflow.parentRunId"), run.data.tags
        names = {"sweep": run.info.run_name, "configuration": tags.get("configuration"), "seed": run.info.run_name[-6:]}
        name = names[tags["gallop_ray.level"]]
        return f"{path(runs[parent])}/{name}" if parent else name

    named = {path(run): run for run in runs.values()}
    assert len(named) == len(runs), "a run was doubled"
    return named


def losses(sweep: Sweep, run, name: str = "training/loss") -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    history = MlflowClient(tracking_uri(sweep)).get_metric_history(run.info.run_id, name)
    return [(point.step, point.value) for point in history]


def test_a_sweep_that_is_continued_with_more_seeds_says_so(sweep):
    assert mirror(begin(sweep), sweep, finished=False)
    assert mlflow_runs(sweep)["demo"].data.tags["seeds"] == "0, 1"
    grown = Sweep.model_validate({**sweep.model_dump(), "seeds": [0, 1, 2]})
    assert mirror(SweepFolder(Path(sweep.output) / sweep.name), grown)
    run = mlflow_runs(sweep)["demo"]
    assert (run.data.tags["seeds"], run.data.tags["methods"]) == ("0, 1, 2", "gallop")
    assert "seeds" not in run.data.params


def test_a_finished_sweep_arrives_nested_with_params_metrics_and_artifacts(sweep):
    from mlflow import MlflowClient

    folder = begin(sweep)
    configuration = folder.configuration("gallop-1")
    for seed, accuracy in ((0, 0.5), (1, 0.7)):
        run_seed(configuration.run(seed), accuracy)
    configuration.write_status("finished", [0, 1], 0.6)
    assert mirror(folder, sweep)

    runs = mlflow_runs(sweep)
    assert sorted(runs) == ["demo", "demo/gallop-1", "demo/gallop-1/seed 0", "demo/gallop-1/seed 1"]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    seed = runs["demo/gallop-1/seed 0"]
    assert seed.data.params == {
        "method": "gallop", "density": "0.01", "selection_ratio": "0.1", "learning_rate": "0.001",
        "eps": "1e-08", "seed": "0", "model": sweep.model.name, "train": sweep.data.train,
        **{name: each for name in ("batch_size", "steps", "epochs") if (each := seed.data.params.get(name))},
    }  # fmt: skip
    for run in runs.values():
        tags = run.data.tags
        assert tags["mlflow.user"] == getpass.getuser()
        assert tags["mlflow.source.name"] == str(folder.path)
    listed = {file.path for file in MlflowClient(tracking_uri(sweep)).list_artifacts(runs["demo"].info.run_id)}
    assert "sweep.yaml" in listed
    assert seed.info.run_name == "gallop density=0.01 eps=1e-08 seed 0"
    assert runs["demo/gallop-1"].info.run_name == "gallop density=0.01 eps=1e-08 1"
    assert losses(sweep, seed) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert seed.data.metrics["id_accuracy"] == 0.5
    assert seed.data.metrics["seconds/total"] == 2.0
    assert "grad_norm" not in seed.data.metrics
    assert "forget_ratio" not in seed.data.metrics
    files = [file.path for file in MlflowClient(tracking_uri(sweep)).list_artifacts(seed.info.run_id)]
    assert files == ["run.json"]
    assert (Path(sweep.output) / "mlartifacts").is_dir()
    means = runs["demo/gallop-1"].data.metrics
    assert means["id_accuracy"] == pytest.approx(0.6)
    assert means["id_accuracy_std"] == pytest.approx(0.1 * 2**0.5)
    assert means["n_seeds"] == 2
    assert runs["demo"].data.metrics == {"configurations_finished": 1, "runs_finished": 2}


@pytest.mark.parametrize("name", ["c++", "q&a (v2)", "50 %", "a-2B-b", "x" * 300])
def test_a_name_that_mlflow_refuses_is_written_in_its_characters(name):
    import mlflow.utils.validation as mlflow_rules

    mlflow_rules._validate_metric_name(metric_name(name))
    mlflow_rules._validate_length_limit("metric", mlflow_rules.MAX_ENTITY_KEY_LENGTH, metric_name(name))
    others = ("c--", "c__", "c-2B--2B-", "a+b", "x" * 299 + "y", "tasks/boolq_test", "val_mean_accuracy")
    assert metric_name(name) not in map(metric_name, others)
    assert metric_name("tasks/boolq-v2_test") == "tasks/boolq-v2_test"


def test_tasks_of_any_name_arrive_and_the_objective_is_the_first_metric(sweep):
    folder = begin(sweep)
    run, configuration = folder.run("gallop-1", 0), folder.configuration("gallop-1")
    run.start({"seed": 0}, slot="slot-0")
    tasks = {"c++": {"test": {"likelihood": 0.5}}, "q&a (v2)": {"test": {"likelihood": 0.25}}}
    result = {"configuration": "gallop-1", "seed": 0, "status": "finished", "reason": None, "ended": 2e9}
    run.finish({**result, "id_accuracy": 0.7, "val_mean_accuracy": 0.75, "tasks": tasks})
    configuration.write_status("finished", [0], 0.75)
    assert mirror(folder, sweep)
    runs = mlflow_runs(sweep)
    assert {each.info.status for each in runs.values()} == {"FINISHED"}
    found = runs["demo/gallop-1/seed 0"].data.metrics
    for task, values in tasks.items():
        assert found[metric_name(f"tasks/{task}_test_likelihood")] == values["test"]["likelihood"]
    means = list(runs["demo/gallop-1"].data.metrics)
    assert (means[0], means[-1]) == ("val_mean_accuracy", "n_seeds")


def test_a_metric_that_mlflow_refuses_costs_only_itself(sweep, caplog, monkeypatch):
    monkeypatch.setattr("gallop_ray.mlflow_mirror.store.metric_name", lambda name: name)
    folder = begin(sweep)
    run = folder.run("gallop-1", 0)
    run.start({"seed": 0}, slot="slot-0")
    result = {"configuration": "gallop-1", "seed": 0, "status": "finished", "reason": None, "ended": 2e9}
    run.finish({**result, "good": 0.7, "b+d": 0.5, "later": 0.6})
    folder.configuration("gallop-1").write_status("finished", [0], 0.7)
    assert mirror(folder, sweep)
    runs = mlflow_runs(sweep)
    assert {each.info.status for each in runs.values()} == {"FINISHED"}
    assert runs["demo/gallop-1/seed 0"].data.metrics == {"good": 0.7, "later": 0.6}
    assert caplog.text.count("does not take the metric b+d") == 1


def test_an_experiment_that_was_deleted_is_refused_in_one_line_with_the_fix(sweep, caplog):
    from mlflow import MlflowClient

    folder = begin(sweep)
    client = MlflowClient(tracking_uri(sweep))
    client.delete_experiment(client.create_experiment(sweep.tracking.experiment))
    assert mirror(folder, sweep) is False
    assert caplog.text.count("refuses the records") == 1
    assert "was deleted: restore it (mlflow experiments restore --experiment-id" in caplog.text
    assert "cannot be reached" not in caplog.text


def test_a_database_that_was_made_by_half_is_set_aside_and_made_again(sweep, caplog):
    output = Path(sweep.output)
    (output / "mlflow.db").unlink()
    with sqlite3.connect(output / "mlflow.db") as connection:
        connection.execute("CREATE TABLE spans (key VARCHAR(250))")
    connection.close()
    folder = begin(sweep)
    run_seed(folder.run("gallop-1", 0), 0.5)
    folder.configuration("gallop-1").write_status("finished", [0], 0.5)
    assert mirror(folder, sweep)
    assert len(mlflow_runs(sweep)) == 3
    assert caplog.text.count("is made again from the run folders") == 1
    assert len(list(output.glob("mlflow.broken-*.db"))) == 1


@pytest.mark.parametrize("asked", [{}, {"density": {"lora_rank": 8}}])
def test_a_density_that_only_a_run_finds_out_is_a_number_beside_the_others(sweep, asked):
    folder = begin(sweep)
    configuration = folder.configuration("lora-1")
    configuration.create({"method": {"type": "lora", "name": "lora", **asked}, "training": {"learning_rate": 0.001}})
    run = configuration.run(0)
    run.start({"seed": 0}, slot="slot-0")
    result = {"configuration": "lora-1", "seed": 0, "status": "finished", "density": 0.0443219}
    run.finish({**result, "reason": None, "ended": 2e9})
    configuration.write_status("finished", [0], 0.6)
    for _ in range(2):
        assert mirror(folder, sweep)
        runs = mlflow_runs(sweep)
        for path in ("demo/lora-1", "demo/lora-1/seed 0"):
            assert runs[path].data.params["density"] == "0.0443"
            assert runs[path].info.status == "FINISHED"


def test_a_restart_doubles_nothing_and_sends_what_came_meanwhile(sweep):
    folder = begin(sweep)
    run_seed(folder.run("gallop-1", 0), 0.5)
    assert mirror(folder, sweep, finished=False)
    assert mlflow_runs(sweep)["demo/gallop-1"].info.status == "KILLED"
    run_seed(folder.run("gallop-1", 1), 0.7)
    folder.configuration("gallop-1").write_status("finished", [0, 1], 0.6)
    # A kill between making an MLflow run and noting it leaves no mlflow.json.
    (folder.run("gallop-1", 0).path / "mlflow.json").unlink()
    for _ in range(2):
        assert mirror(folder, sweep)
    runs = mlflow_runs(sweep)
    assert len(runs) == 4
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for seed in (0, 1):
        assert [step for step, _ in losses(sweep, runs[f"demo/gallop-1/seed {seed}"])] == [1, 2, 3]
    assert runs["demo/gallop-1"].data.metrics["n_seeds"] == 2


def test_a_note_that_a_power_cut_emptied_doubles_nothing(sweep):
    folder = begin(sweep)
    run_seed(folder.run("gallop-1", 0), 0.5)
    folder.configuration("gallop-1").write_status("finished", [0], 0.5)
    assert mirror(folder, sweep)
    for path in (folder.configuration("gallop-1").path, folder.run("gallop-1", 0).path):
        (path / "mlflow.json").write_bytes(b"")
    assert mirror(folder, sweep)
    runs = mlflow_runs(sweep)
    assert len(runs) == 3
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_an_interrupted_run_is_killed_then_goes_on_in_the_same_mlflow_run(sweep):
    folder = begin(sweep)
    run = folder.run("gallop-1", 0)
    run.start({}, slot="slot-0")
    train(run, range(1, 3))
    assert mirror(folder, sweep, finished=False)
    # A validation is sent although the step that it came after was sent before it, and once.
    run.event("validation", step=2, steps=3, val_id_accuracy=0.25)
    assert mirror(folder, sweep, finished=False)
    before = mlflow_runs(sweep)
    assert {run.info.status for run in before.values()} == {"KILLED"}

    run_seed(run, 0.5)
    folder.configuration("gallop-1").write_status("finished", [0], 0.5)
    assert mirror(folder, sweep)
    after = mlflow_runs(sweep)
    assert {path: run.info.run_id for path, run in after.items()} == {
        path: run.info.run_id for path, run in before.items()
    }
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    assert [step for step, _ in losses(sweep, after["demo/gallop-1/seed 0"])] == [1, 2, 3]
    assert losses(sweep, after["demo/gallop-1/seed 0"], "training/val_id_accuracy") == [(2, 0.25)]


def test_an_end_in_a_hurry_leaves_nothing_running_and_the_next_start_sends_the_rest(sweep):
    folder = begin(sweep)
    run = folder.run("gallop-1", 0)
    run.start({}, slot="slot-0")
    train(run, range(1, 2))
    thread = MlflowMirror(folder, sweep, tracking_uri(sweep))
    thread.start()
    deadline = time.monotonic() + 50
    while not (run.path / "mlflow.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run_seed(run, 0.5)
    assert thread.stop(timeout=50, finished=False, now=True)
    assert "RUNNING" not in {run.info.status for run in mlflow_runs(sweep).values()}
    folder.configuration("gallop-1").write_status("finished", [0], 0.5)
    assert mirror(folder, sweep)
    after = mlflow_runs(sweep)
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    assert [step for step, _ in losses(sweep, after["demo/gallop-1/seed 0"])] == [1, 2, 3]


def test_failed_and_pruned_configurations_keep_their_status_and_reason(sweep):
    folder = begin(sweep, "a")
    begin(sweep, "b")
    run_seed(folder.run("a", 0), 0.1, status="diverged")
    folder.configuration("a").write_status("diverged", [], reason="the loss became NaN")
    run_seed(folder.run("b", 0), 0.4)
    folder.configuration("b").write_status("pruned", [0], 0.4, reason="below the median")
    assert mirror(folder, sweep)
    runs = mlflow_runs(sweep)
    assert [runs[path].info.status for path in ("demo/a", "demo/a/seed 0", "demo/b")] == [
        "FAILED",
        "FAILED",
        "FINISHED",
    ]
    assert runs["demo/a/seed 0"].data.tags["reason"] == "the loss became NaN"
    assert runs["demo/b"].data.tags["status"] == "pruned"
    assert runs["demo/a"].data.metrics == {"n_seeds": 0}


def test_a_dead_server_is_one_warning_and_a_later_one_gets_everything(sweep, caplog):
    folder = begin(sweep)
    thread = MlflowMirror(folder, sweep, DEAD)
    with caplog.at_level(logging.WARNING):
        thread.start()
        run_seed(folder.run("gallop-1", 0), 0.5)
        folder.configuration("gallop-1").write_status("finished", [0], 0.5)
        assert thread.stop(timeout=50) is False
    assert len([record for record in caplog.records if "cannot be reached" in record.message]) == 1
    assert "secret" not in caplog.text
    assert mirror(folder, sweep)
    runs = mlflow_runs(sweep)
    assert len(runs) == 3
    assert len(losses(sweep, runs["demo/gallop-1/seed 0"])) == 3


def test_a_request_that_is_lost_at_the_end_is_made_again(sweep, caplog, monkeypatch):
    usual, lost = MlflowStore.set_status, []

    def set_status(store: MlflowStore, run_id: str, status: str, *more: object) -> None:
        if status == "FINISHED" and not more and len(lost) < 2:
            lost.append(run_id)
            raise ConnectionError("the connection was closed")
        usual(store, run_id, status, *more)

    monkeypatch.setattr(MlflowStore, "set_status", set_status)
    folder = begin(sweep)
    run_seed(folder.run("gallop-1", 0), 0.5)
    folder.configuration("gallop-1").write_status("finished", [0], 0.5)
    assert mirror(folder, sweep)
    assert len(lost) == 2
    assert {run.info.status for run in mlflow_runs(sweep).values()} == {"FINISHED"}


def test_an_emptied_store_is_sent_everything_again(sweep, empty_database):
    folder = begin(sweep)
    run_seed(folder.run("gallop-1", 0), 0.5)
    folder.configuration("gallop-1").write_status("finished", [0], 0.5)
    assert mirror(folder, sweep)
    shutil.copy(empty_database, Path(sweep.output) / "mlflow.db")
    assert mirror(folder, sweep)
    runs = mlflow_runs(sweep)
    assert len(runs) == 3
    assert len(losses(sweep, runs["demo/gallop-1/seed 0"])) == 3


def test_a_run_that_somebody_deleted_does_not_hold_up_the_others(sweep, caplog):
    from mlflow import MlflowClient

    folder = begin(sweep)
    folder.run("gallop-1", 0).start({}, slot="slot-0")
    assert mirror(folder, sweep, finished=False)
    MlflowClient(tracking_uri(sweep)).delete_run(mlflow_runs(sweep)["demo/gallop-1/seed 0"].info.run_id)
    for seed in (0, 1):
        run_seed(folder.run("gallop-1", seed), 0.5)
    folder.configuration("gallop-1").write_status("finished", [0, 1], 0.5)
    assert mirror(folder, sweep)
    runs = mlflow_runs(sweep)
    assert sorted(runs) == ["demo", "demo/gallop-1", "demo/gallop-1/seed 1"]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert "does not take the records" in caplog.text


def test_events_are_followed_while_the_run_goes_on(sweep):
    import time

    folder = begin(sweep)
    run = folder.run("gallop-1", 0)
    run.start({}, slot="slot-0")
    thread = MlflowMirror(folder, sweep, tracking_uri(sweep))
    thread.start()
    train(run, range(1, 3))
    state = run.path / "mlflow.json"
    deadline = time.monotonic() + 40
    while not (state.exists() and json.loads(state.read_text())["last_step"] == 2):
        assert time.monotonic() < deadline, "the steps were not sent while the run went on"
        time.sleep(0.1)
    assert mlflow_runs(sweep)["demo/gallop-1/seed 0"].info.status == "RUNNING"
    train(run, range(3, 4))
    assert thread.stop(timeout=50, finished=False)
    killed = mlflow_runs(sweep)["demo/gallop-1/seed 0"]
    assert killed.info.status == "KILLED"
    assert len(losses(sweep, killed)) == 3


def test_the_store_is_the_sweeps_then_the_environments_then_a_file_beside_the_sweeps(sweep, monkeypatch):
    assert tracking_uri(sweep) == f"sqlite:///{Path(sweep.output).resolve()}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    assert tracking_uri(sweep) == "http://elsewhere"
    own = sweep.tracking.model_copy(update={"uri": "http://own"})
    assert tracking_uri(sweep.model_copy(update={"tracking": own})) == "http://own"


def test_a_run_of_which_mlflow_refuses_a_parameter_is_not_left_running(sweep, caplog):
    from mlflow import MlflowClient

    folder = begin(sweep)
    run_seed(folder.run("gallop-1", 0), 0.5)
    folder.configuration("gallop-1").write_status("finished", [0], 0.5)
    assert mirror(folder, sweep)
    # MLflow changes no parameter: a run that has the same identity and another value refuses all that comes with it.
    path = folder.configuration("gallop-1").path / "configuration.json"
    path.write_text(path.read_text().replace("0.001", "0.002"))
    (folder.run("gallop-1", 0).path / "mlflow.json").unlink()
    client = MlflowClient(tracking_uri(sweep))
    client.update_run(mlflow_runs(sweep)["demo/gallop-1/seed 0"].info.run_id, "RUNNING")
    assert mirror(folder, sweep)
    statuses = {name: run.info.status for name, run in mlflow_runs(sweep).items()}
    assert statuses == {"demo": "FINISHED", "demo/gallop-1": "FINISHED", "demo/gallop-1/seed 0": "KILLED"}
    assert caplog.text.count("does not take the records") == 1
