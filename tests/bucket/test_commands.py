"""Commands on a sweep in a bucket, from a machine that has nothing of it, as far as they need no Ray."""

import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

import gallop_ray
from gallop_ray.cli import main
from gallop_ray.disk.bucket.address import copies, placed
from gallop_ray.records import control
from gallop_ray.records.files import write_json
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.stored import open_sweep
from gallop_ray.sweep.recheck import recheck
from tests.bucket.conftest import use_machine
from tests.bucket.server import BUCKET, client, objects
from tests.sweep.written import Written, small_sweep

Lose = Callable[[], None]


@pytest.fixture
def lose(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lose:
    """Call it to continue on a machine that has nothing."""
    machines = iter(range(1, 100))
    return lambda: use_machine(tmp_path / f"machine-{next(machines)}", monkeypatch)


@pytest.fixture
def sweep(address: str) -> str:
    """The address of a sweep with a finished configuration, a failed run, and one that goes on; its driver is gone."""
    spec = small_sweep(Path("/nowhere")).model_copy(update={"output": str(copies(address, "work"))})
    folder = SweepFolder(placed(f"{address}/small"))
    with control.alone(folder):
        folder.create(spec.model_dump(mode="json"))
        control.begin(folder)
        written = Written.__new__(Written)
        written.sweep, written.folder = spec, folder
        for seed in spec.seeds:
            written.end(written.begin("gallop", 0.1, seed), 0.8)
        written.end(written.begin("gallop", 0.2, 0), None, "failed")
        written.begin("random", 0.1, 0).event("step", step=1, steps=4, loss=1.0)
        folder.rebuild_results()
    return f"{address}/small"


def test_it_is_read_from_anywhere(sweep: str, lose: Lose, capsys: pytest.CaptureFixture[str]) -> None:
    lose()
    assert main(["status", sweep, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["driver"], status["runs"]["finished"], status["runs"]["failed"]) == (None, 2, 1)
    assert len(gallop_ray.results(sweep)) == 3
    assert open_sweep(sweep).sweep.output == sweep.rpartition("/")[0]


def test_a_list_looks_into_the_bucket(sweep: str, server: str, lose: Lose, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = SweepFolder(placed(sweep)), sweep.rpartition("/")[0]
    begun = datetime(2026, 1, 2, 3, 4)
    write_json(folder.path / "identity.json", {"begun": begun.isoformat()})
    client(server).put_object(Bucket=BUCKET, Key=f"{output.partition(f'{BUCKET}/')[2]}/scores/k", Body=b"1")
    lose()
    assert main(["list", output]) == 0
    said = capsys.readouterr().out
    assert "small" in said
    assert f"{begun:%Y-%m-%d %H:%M}" in said
    assert "scores" not in said
    for key in objects(server, f"{sweep.partition(f'{BUCKET}/')[2]}/"):
        client(server).delete_object(Bucket=BUCKET, Key=key)
    assert main(["list", output]) == 2
    assert f"{output} holds no sweep" in capsys.readouterr().err


def test_the_report_is_written_into_the_bucket(sweep: str, server: str, lose: Lose) -> None:
    lose()
    assert main(["report", sweep]) == 0
    keys = objects(server, f"{sweep.removeprefix(f's3://{BUCKET}/')}/report/")
    assert any(key.endswith("report/report.html") for key in keys)


def test_a_retry_from_another_machine(sweep: str, lose: Lose, capsys: pytest.CaptureFixture[str]) -> None:
    lose()
    assert main(["retry", sweep, "--failed"]) == 0
    assert "1 run queued" in capsys.readouterr().out
    lose()
    assert len(gallop_ray.results(sweep)) == 2
    folder = SweepFolder(placed(sweep))
    with control.alone(folder):
        failed = next(run for run in folder.runs() if run.configuration.startswith("gallop") and not run.result())
        assert failed.attempt() == 1  # what was tried is not forgotten


def test_only_a_running_one_is_stopped(sweep: str, lose: Lose, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stop", sweep]) == 2
    assert f"{sweep} is not running" in capsys.readouterr().err
    folder = SweepFolder(placed(sweep))
    with control.alone(folder):
        control.begin(folder)
        lose()
        assert main(["pause", sweep]) == 0
        _until(lambda: control.asked(folder) == "pause")
        assert main(["stop", sweep]) == 0
        _until(lambda: control.asked(folder) == "stop")
        assert main(["retry", sweep, "--failed"]) == 2
        assert "is being run by process" in capsys.readouterr().err
    assert main(["stop", sweep]) == 2


def _until(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_finished_run_whose_adapter_is_only_in_the_bucket_is_not_run_again(sweep: str, lose: Lose) -> None:
    lose()
    folder = SweepFolder(placed(sweep))
    with control.alone(folder):
        run = next(run for run in folder.runs() if (result := run.result()) and result.finished)
        assert recheck(folder, open_sweep(folder.path).sweep) == []
        assert run.result() is not None


def test_what_is_no_sweep(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", f"{address}/none"]) == 2
    assert "is not a sweep: the bucket has no spec.json there" in capsys.readouterr().err
    assert main(["status", "s3://no-such-bucket/x/y"]) == 2
    assert "give a bucket that exists as output" in capsys.readouterr().err
