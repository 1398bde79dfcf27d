"""The folders that are the truth of a sweep: what is written is read, and a kill at any moment leaves it readable."""

import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from gallop_ray.records.environment import environment_record
from gallop_ray.records.events import RunStarted
from gallop_ray.records.files import parse_lines, read_json, write_json
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.results import ConfigurationStatus
from gallop_ray.records.typed import VERSION
from gallop_ray.records.watch import OpenConfigurations


def start(folder: SweepFolder, key: str = "gallop-1", seed: int = 0):
    folder.configuration(key).create({"method": {"name": "gallop"}})
    run = folder.run(key, seed)
    run.start({"seed": seed}, slot="slot-0")
    return run


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    write_json(tmp_path / "a.json", {"loss": float("nan"), "scores": (1.0, float("inf")), "none": None})
    assert read_json(tmp_path / "a.json") == {"loss": None, "scores": [1.0, None], "none": None}


def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new_file(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"n": -1, "padding": []})
    program = f"""
        from pathlib import Path
        from gallop_ray.records.files import write_json
        print("ready", flush=True)
        for n in range(10**9):
            write_json(Path({str(path)!r}), {{"n": n, "padding": list(range(20000))}})
    """
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout
            assert writer.stdout.readline() == b"ready\n"
            seen = {read_json(path)["n"] for _ in range(100)}  # type: ignore[index]
            writer.kill()
        assert len(seen) >= 1
        assert len(read_json(path)["padding"]) in (0, 20000)


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})
    with pytest.raises(TypeError):
        write_json(path, {"n": object()})
    assert read_json(path) == {"n": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")
    assert read_json(tmp_path / "missing.json") is None


def test_a_torn_last_line_is_not_read_until_it_is_complete(tmp_path):
    run = start(SweepFolder(tmp_path))
    run.event("step", step=1)
    tail = run.tail()
    with run.metrics.open("ab") as file:
        file.write(b'{"time": 1, "event": "st')
    assert [event.event for event in run.events()] == ["run_started", "step"]
    assert run.tail(tail.offset, tail.attempt).events == []
    with run.metrics.open("ab") as file:
        file.write(b'ep", "step": 2}\n')
    (step,) = run.tail(tail.offset, tail.attempt).events
    assert step.as_json() == {"time": 1, "event": "step", "step": 2}


def test_a_new_attempt_clears_what_the_last_one_left_and_counts_on(tmp_path):
    run = start(SweepFolder(tmp_path))
    run.write("mask", {"chosen": 3})
    run.adapter.write_bytes(b"half")
    run.event("step", step=1)
    old = run.tail()
    run.finish({"status": "failed"})

    assert run.start({"seed": 0}, slot="slot-1") == 2
    assert run.result() is None
    assert run.read("mask") is None
    assert not run.adapter.exists()
    fresh = run.tail(old.offset, old.attempt)
    (started,) = fresh.events
    assert isinstance(started, RunStarted)
    assert (started.event, started.slot, started.attempt) == ("run_started", "slot-1", 2)


def test_a_finished_run_never_starts_again(tmp_path):
    run = start(SweepFolder(tmp_path))
    run.finish({"status": "finished"})
    with pytest.raises(AssertionError, match="never runs again"):
        run.start({}, slot="slot-0")


def test_runs_come_sorted_by_configuration_and_number_of_the_seed(tmp_path):
    folder = SweepFolder(tmp_path)
    for key, seed in (("b", 10), ("b", 2), ("a", 0)):
        start(folder, key, seed)
    (tmp_path / "scores" / "seed-1").mkdir(parents=True)
    assert [(run.configuration, run.seed) for run in folder.runs()] == [("a", 0), ("b", 2), ("b", 10)]


def test_results_are_flat_lines_and_a_retry_replaces_its_line(tmp_path):
    folder = SweepFolder(tmp_path)
    path, key = tmp_path / "results.jsonl", {"configuration": "gallop-1", "method": "gallop"}
    first, second = start(folder, seed=0), start(folder, seed=1)
    first.finish({**key, "seed": 0, "status": "failed", "seconds": {"training": 2.0, "total": 3.0}})
    folder.append_result(first)
    second.finish({**key, "seed": 1, "status": "finished", "tasks": {"arc": {"test": {"likelihood": 0.5}}}})
    folder.append_result(second)
    assert parse_lines(path.read_bytes()).records == [
        {**key, "seed": 0, "status": "failed", "seconds_training": 2.0, "seconds_total": 3.0},
        {**key, "seed": 1, "status": "finished", "tasks_arc_test_likelihood": 0.5},
    ]
    first.start({}, slot="slot-0")
    first.finish({**key, "seed": 0, "status": "finished"})
    folder.append_result(first)
    lines = parse_lines(path.read_bytes()).records
    assert [(line["seed"], line["status"]) for line in lines] == [(0, "finished"), (1, "finished")]
    path.unlink()
    folder.rebuild_results()
    assert lines == parse_lines(path.read_bytes()).records


def test_a_folder_that_is_no_sweep_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="Give the folder <output>/<sweep name>"):
        SweepFolder(tmp_path).spec()


def test_a_configuration_is_running_until_its_status_says_otherwise(tmp_path):
    configuration = SweepFolder(tmp_path).configuration("gallop-1")
    configuration.create({"method": {}})
    assert configuration.status() == ConfigurationStatus(status="running")
    configuration.write_status("pruned", [0], objective=0.5, reason="below the median")
    written = {"status": "pruned", "reason": "below the median", "objective": 0.5, "seeds_done": (0,)}
    assert configuration.status().as_json() == {"version": VERSION, **written}


def test_a_closed_configuration_is_left_alone_until_it_changes(tmp_path):
    folder = SweepFolder(tmp_path)
    start(folder)
    configuration = folder.configuration("gallop-1")
    watch = OpenConfigurations(folder)
    assert watch.look() == [configuration]
    watch.close(configuration)
    assert watch.look() == [configuration], "a folder that changed just now may change again unseen"
    os.utime(configuration.path, (0, 0))
    watch.look()
    watch.close(configuration)
    assert watch.look() == []
    start(folder, seed=1)
    assert watch.look() == [configuration]


def test_the_environment_names_versions_and_machine():
    record = environment_record()
    assert json.loads(json.dumps(record)) == record
    assert record["torch"]
    assert record["mlflow"]
    assert record["hostname"]
    assert record["cpu_count"] >= 1


def _append(path: Path, seeds: range) -> None:
    folder = SweepFolder(path)
    for seed in seeds:
        run = folder.run("gallop-1", seed)
        for attempt in range(2):  # a run that was cut off: its line is to be added, or to replace another
            run.start({}, "slot-0")
            if attempt or seed % 2:
                run.finish({"configuration": "gallop-1", "seed": seed, "status": "failed", "attempt": attempt})
                folder.append_result(run)


@pytest.mark.slow
def test_processes_that_add_results_at_once_lose_no_line(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.configuration("gallop-1").create({})
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append, args=(tmp_path, range(i, 40, 4))) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert sorted(line["seed"] for line in lines) == list(range(40))
    assert all(line["attempt"] == 1 for line in lines)


def test_records_need_no_heavy_package():
    program = (
        "import sys, gallop_ray.mlflow_mirror.mirror, gallop_ray.records.folders, gallop_ray.records.environment\n"
    )
    program += "print([name for name in ('torch', 'ray', 'optuna', 'mlflow', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_the_base_model_can_do_is_there_as_a_whole_or_not_at_all(tmp_path):
    folder = SweepFolder(tmp_path)
    assert (folder.base(), folder.base_text_loss()) == (None, None)
    folder.write_base({"arc": {"test": {"likelihood": 0.5}}}, {}, {}, 1.5)
    assert folder.base() == {"arc": {"test": {"likelihood": 0.5}}}
    assert folder.base_text_loss() == 1.5


def test_all_that_is_measured_of_the_base_model_can_be_written(tmp_path):
    """The driver hands it on by name."""
    from dataclasses import asdict

    from gallop_ray.training.measure import Measured

    measured = Measured(correct={}, outputs={}, text_loss=1.0, val_text_loss=2.0)
    SweepFolder(tmp_path).write_base({}, **asdict(measured))
    assert json.loads((tmp_path / "base_text.json").read_text()) == {"text_loss": 1.0, "val_text_loss": 2.0}
