"""Damaged records count as missing, or are named: none ends a command or a thread."""

import io
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from gallop_ray.analysis.answers import recorded
from gallop_ray.cli import main
from gallop_ray.disk import damage
from gallop_ray.mlflow_mirror.fields import Sent
from gallop_ray.records.files import read_json
from gallop_ray.reporting.progress import SweepDisplay
from gallop_ray.search.storage import open_storage, read_storage
from gallop_ray.search.study import Studies
from gallop_ray.sparse.checked import save_checked
from gallop_ray.spec.plan import plan_sweep
from gallop_ray.sweep.admission import keep_best
from gallop_ray.sweep.recheck import clear_leftovers, recheck
from gallop_ray.training.checkpoint import last_checkpoint
from tests.sweep.written import Written, small_sweep

DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "_SAID", set())


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """gallop at 0.1 finished with two seeds, at 0.2 half-done."""
    written = Written(small_sweep(tmp_path))
    for seed, accuracy in ((0, 0.4), (1, 0.6)):
        written.end(written.begin("gallop", 0.1, seed), accuracy)
    written.begin("gallop", 0.2, 0).event("step", step=4, steps=120, loss=1.25)
    return written


def changed(record: dict[str, Any]) -> Iterator[bytes]:
    """The record without each of its fields, and with each of another type."""
    for name, value in record.items():
        yield json.dumps({key: each for key, each in record.items() if key != name}).encode()
        for other in (None, "x", -1, [], {}, True):
            if type(other) is not type(value):
                yield json.dumps({**record, name: other}).encode()


def spoilt(path: Path) -> Iterator[bytes]:
    whole = path.read_bytes()
    yield from (b"", whole[: len(whole) // 2], b"\0" * 99, b"[]\n", b"null\n", bytes(range(256)), DEEP, b"{}\n")
    if path.suffix == ".json":
        yield from changed(json.loads(whole))
    else:
        first, *rest = whole.splitlines(keepends=True)
        for line in (b"null\n", b"\n", b'{"x": \n', b"{}\n", b'{"time": 1, "event": "step", "step": "x"}\n'):
            yield first + line + b"".join(rest)
        yield b"".join(rest)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spec.json", "configuration.json", "status.json", "result.json", "metrics.jsonl"])
def test_no_command_ends_in_a_traceback_whatever_a_record_holds(
    written: Written, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written.folder
    place = min(folder.path.rglob(name))
    whole = place.read_bytes()
    for data in spoilt(place):
        place.write_bytes(data)
        for command in ("status", "best"):
            code = main([command, str(folder.path)])  # raises what is no answer
            assert code == 0 or str(folder.path) in capsys.readouterr().err, data[:80]
    place.write_bytes(whole)


def test_a_damaged_result_is_named_once_and_its_run_is_to_do(
    written: Written, caplog: pytest.LogCaptureFixture
) -> None:
    run = next(run for run in written.folder.runs() if run.result())
    (run.path / "result.json").write_text('{"status": "fin')
    with caplog.at_level(logging.WARNING):
        assert run.result() is None
        assert run.result() is None
    assert [record.getMessage().split(" is not valid")[0] for record in caplog.records] == [
        str(run.path / "result.json")
    ]
    assert "the next start runs it again" in caplog.text
    recheck(written.folder, written.sweep)
    assert written.folder.configuration(run.configuration).status().status == "running"


def test_a_finished_run_without_a_whole_adapter_is_run_again(written: Written) -> None:
    whole, lost = [run for run in written.folder.runs() if run.result()]
    for run in (whole, lost):
        whole_result = json.loads((run.path / "result.json").read_text())
        (run.path / "result.json").write_text(json.dumps({**whole_result, "trained_parameters": 3}))
    for run in (whole, lost):
        save_checked(run.adapter, {"a": torch.zeros(3)})
    lost.adapter.write_bytes(lost.adapter.read_bytes()[:-3])
    (said,) = recheck(written.folder, written.sweep)
    assert f"are run again: {lost.configuration} seed {lost.seed} ({lost.adapter} is damaged" in said
    assert whole.result()
    assert lost.result() is None
    assert written.folder.configuration(lost.configuration).status().status == "running"
    whole.adapter.unlink()
    (said,) = recheck(written.folder, written.sweep)
    assert f"{whole.adapter} is missing" in said


def test_a_checkpoint_that_a_kill_left_beside_a_result_is_removed(written: Written) -> None:
    """Of a failed run it stays: `retry` goes on from it."""
    finished, failed = [run for run in written.folder.runs() if run.result()]
    failed_result = json.loads((failed.path / "result.json").read_text())
    (failed.path / "result.json").write_text(json.dumps({**failed_result, "status": "failed", "reason": "x"}))
    for run in (finished, failed):
        run.checkpoint.write_bytes(b"x")
    recheck(written.folder, written.sweep)
    assert not finished.checkpoint.exists()
    assert failed.checkpoint.exists()


def test_adapters_that_retention_has_removed_are_never_missed(written: Written) -> None:
    """Nor once it keeps all of them. A run that trains again has nothing removed."""
    best = written.begin("gallop", 0.2, 1)
    written.end(written.folder.run(best.configuration, 0), 0.9)
    written.end(best, 0.9)
    for run in written.folder.runs():
        result = json.loads((run.path / "result.json").read_text())
        (run.path / "result.json").write_text(json.dumps({**result, "trained_parameters": 3}))
        save_checked(run.adapter, {"a": torch.zeros(3)})
    written.folder.rebuild_results()
    keep_best(written.folder, written.sweep, set())
    stripped = [run for run in written.folder.runs() if not run.adapter.exists()]
    assert len(stripped) == 2
    assert best.configuration not in {run.configuration for run in stripped}
    assert written.sweep.retention.adapters == "all"
    assert recheck(written.folder, written.sweep) == []
    assert all(run.result() for run in stripped)
    again = stripped[0]
    (again.path / "result.json").unlink()
    again.start({}, "slot-0")
    assert not again.stripped


def test_the_display_outlives_a_record_that_it_cannot_read(written: Written) -> None:
    plans, said = plan_sweep(written.sweep, None).methods, io.StringIO()
    with SweepDisplay(written.folder, plans, written.sweep.objective, Console(file=said, markup=False)) as display:
        (written.folder.path / "gallop-9" / "seed-0").mkdir(parents=True)
        (written.folder.path / "gallop-9" / "configuration.json").write_bytes(b"\0")
        (written.folder.path / "gallop-9" / "seed-0" / "metrics.jsonl").write_bytes(b"torn\nand more\n")
        display.note("still there")
    assert "still there" in said.getvalue()


def test_an_attempt_of_the_same_number_in_a_removed_folder_is_read_from_its_start(written: Written) -> None:
    run = next(run for run in written.folder.runs() if not run.result())
    tail = run.tail()
    run.metrics.unlink()
    run.start({}, "slot-with-a-long-name")
    for step in range(30):
        run.event("step", step=step, steps=120, more="x" * step)
    again = run.tail(tail.offset, tail.attempt)
    assert len(again.events) == 31


@pytest.mark.parametrize(
    "spoil", [b'{"op_code": 4, "wor', b"not json\n", b"\0" * 50 + b"\n", b'{"op_code": 99}\n', b"[]\n"]
)
def test_a_damaged_journal_is_set_aside_and_rebuilt_from_the_run_folders(
    tmp_path: Path, spoil: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    written = Written(small_sweep(tmp_path))
    studies = Studies(written.sweep, written.folder)
    keys = [studies.next(), studies.next()]
    journal = written.folder.path / "study.journal"
    journal.write_bytes(journal.read_bytes() + spoil)
    with caplog.at_level(logging.WARNING):
        again = Studies(written.sweep, written.folder)
    assert f"{journal} is damaged" in caplog.text
    assert "the studies are rebuilt from the run folders" in caplog.text
    assert sorted([again.next(), again.next()]) == sorted(keys)
    assert list(written.folder.path.glob("study.journal.damaged-*"))


def test_a_reader_does_not_take_a_line_that_is_being_written_for_damage(tmp_path: Path) -> None:
    written = Written(small_sweep(tmp_path))
    open_storage(written.folder, written.sweep)
    Studies(written.sweep, written.folder).next()
    journal = written.folder.path / "study.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    found = read_storage(written.folder, written.sweep)
    assert found is not None
    assert len(found.get_all_studies()) == 2
    journal.write_bytes(b"{}\n")
    assert read_storage(written.folder, written.sweep) is None


def test_what_earlier_starts_left_is_removed(written: Written) -> None:
    path = written.folder.path
    (path / "ray" / "tune-1").mkdir(parents=True)
    (path / ".results.jsonl.1.2.tmp").write_text("half")
    clear_leftovers(written.folder)
    assert not (path / "ray").exists()
    assert not list(path.glob(".results.jsonl*"))


def test_a_note_on_mlflow_of_another_shape_counts_as_none(tmp_path: Path) -> None:
    for value in (
        {"sweep_run": "a"},
        {"sweep_run": "a", "run_id": 3},
        {"sweep_run": "a", "run_id": "b", "offset": "x"},
    ):
        (tmp_path / "mlflow.json").write_text(json.dumps(value))
        assert Sent.load(tmp_path, "a") is None
    (tmp_path / "mlflow.json").write_text(json.dumps({"sweep_run": "a", "run_id": "b", "of_a_later_version": 1}))
    assert Sent.load(tmp_path, "a") == Sent("a", "b")


def test_what_is_nested_too_deeply_is_damage(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(DEEP)
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON \(nested too deeply\)"):
        read_json(tmp_path / "a.json")


def test_a_copy_of_a_run_or_of_a_configuration_counts_for_nothing(
    written: Written, caplog: pytest.LogCaptureFixture
) -> None:
    before = [(each.configuration, each.seed) for each in written.folder.results()]
    (key,) = {configuration for configuration, _ in before}
    place = written.folder.path / key
    for name in ("seed-7", "seed-00"):
        shutil.copytree(place / "seed-0", place / name)
    for name in (f"{key}.bak", f"{key} copy"):
        shutil.copytree(place, place.with_name(name))
    after = [(each.configuration, each.seed) for each in written.folder.results()]
    assert after == before
    assert "seed-7/result.json is the result of another run" in caplog.text
    assert f"{key}.bak has no name of a configuration" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"val_mean_accuracy": 1.7},
        {"id_accuracy": -3},
        {"ood_accuracy_generated": 1e300},
        {"val_forget_ratio": -0.1},
        {"collapse_rate": 2},
        {"density": 7.0},
        {"trained_parameters": -3},
        {"tasks": {"max": {"test": {"likelihood": 5}}}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_result_that_no_run_can_have_is_named_and_counts_for_nothing(
    written: Written, wrong: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run, other = [run for run in written.folder.runs() if run.result()]
    result = json.loads((run.path / "result.json").read_text())
    (run.path / "result.json").write_text(json.dumps(result | wrong))
    assert [(each.configuration, each.seed) for each in written.folder.results()] == [(other.configuration, other.seed)]
    assert f"result.json has a wrong {next(iter(wrong))}: " in caplog.text


def test_accuracies_of_the_base_model_that_cannot_be_are_measured_again(written: Written) -> None:
    written.folder.write_base({"max": {"test": {"likelihood": 1.0}}}, {}, {}, None)
    assert written.folder.base() is not None
    written.folder.write_base({"max": {"test": {"likelihood": 5.0}}}, {}, {}, None)
    assert written.folder.base() is None


def test_an_edited_configuration_is_named_and_what_its_runs_were_asked_counts(
    written: Written, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    place = written.folder.configuration(written.folder.results()[0].configuration)
    asked = place.configuration()
    path = place.path / "configuration.json"
    content = json.loads(path.read_text())
    assert content["training"]["learning_rate"] == 0.1
    content["training"]["learning_rate"] = 0.5
    path.write_text(json.dumps(content))
    assert place.configuration() == asked
    assert "configuration.json is not what its folder was named by: it has been changed; what its runs" in caplog.text
    assert main(["best", str(written.folder.path)]) == 0
    said = capsys.readouterr().out
    assert "learning_rate: 0.1" in said
    assert "0.5" not in said.split("training:")[1]


def test_an_edited_configuration_without_runs_is_written_again(written: Written) -> None:
    place = written.folder.configuration(written.folder.results()[0].configuration)
    right = json.loads((place.path / "configuration.json").read_text())
    for run in place.runs():
        shutil.rmtree(run.path)
    (place.path / "configuration.json").write_text(json.dumps(right | {"training": {"learning_rate": 0.5}}))
    with pytest.raises(ValueError, match="it has been changed"):
        place.configuration()
    place.create(right)
    assert place.configuration().training["learning_rate"] == 0.1


def test_a_configuration_whose_key_was_made_otherwise_is_held_against_its_runs(written: Written) -> None:
    key = written.folder.results()[0].configuration
    old = written.folder.configuration("gallop-0123abcd")
    (written.folder.path / key).rename(old.path)
    assert old.configuration().training["learning_rate"] == 0.1


def loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [loop, os.mkfifo, os.mkdir], ids=["a loop of links", "a pipe", "a folder"])
@pytest.mark.parametrize("name", ["result.json", "metrics.jsonl", "checkpoint.safetensors", "correct.json"])
def test_what_is_no_file_costs_its_run_alone_and_is_never_waited_for(
    written: Written, name: str, make: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt, other = [run for run in written.folder.runs() if run.result()]
    (spoilt.path / name).unlink(missing_ok=True)
    make(spoilt.path / name)
    assert main(["status", str(written.folder.path)]) == 0
    assert main(["best", str(written.folder.path)]) == 0
    spoilt.tail()
    assert last_checkpoint(spoilt.checkpoint) is None
    assert other.result()
    if name != "result.json":
        (spoilt.path / "result.json").unlink()
    spoilt.start({}, "slot-0")
    spoilt.finish({"status": "finished"})
    assert spoilt.result()
    assert len(spoilt.events()) == 2


def test_a_file_in_the_place_of_a_run_is_named_and_set_aside_when_the_run_begins(
    written: Written, caplog: pytest.LogCaptureFixture
) -> None:
    run, other = [run for run in written.folder.runs() if run.result()]
    shutil.rmtree(run.path)
    run.path.write_text("mine")
    assert main(["status", str(written.folder.path)]) == 0
    assert "result.json cannot be there: what should be its folder is a file" in caplog.text
    assert [result.seed for result in written.folder.results()] == [other.seed]
    run.start({}, "slot-0")
    assert run.path.with_name(f"{run.path.name}.damaged").read_text() == "mine"
    assert run.attempt() == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"range": {"test": {"likelihood": [1, "0"]}}},
        {"range": {"test": {"likelihood": [1.0, True]}}},
        {"range": {"test": None}},
        {"range": [1]},
        {"range": {"test": {"likelihood": "0192"}}},
    ],
    ids=["texts", "truth values", "null", "no splits", "other digits"],
)
def test_right_answers_of_another_shape_count_as_not_there(
    written: Written, wrong: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run = next(run for run in written.folder.runs() if run.result() is not None)
    run.write("correct", wrong)
    assert recorded(run) == {}
    assert "correct.json does not hold 0 and 1, or a number, for each example" in caplog.text
