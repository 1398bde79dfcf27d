"""A folder of the first version of the records, written by a real sweep, and made-up newer ones: both stay readable."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gallop_ray
from gallop_ray.analysis.status import Counts, StatusReader
from gallop_ray.cli import main
from gallop_ray.disk import damage
from gallop_ray.records.stored import open_sweep
from gallop_ray.records.typed import VERSION

pytestmark = pytest.mark.slow

FIRST = Path(__file__).parents[1] / "fixtures" / "first"
"""gallop at one learning rate finished with three seeds, at another pruned, and with another eps failed."""
NEWER = "1.9"


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "_SAID", set())


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIRST, tmp_path / "first"))


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text())), indent=2))


def without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


@pytest.fixture
def newer(first: Path) -> Path:
    """The same of a newer minor version: a field more everywhere, and a method, a status and an event nobody knows."""
    more = {"version": NEWER, "weather": {"sky": "clear"}}
    for path in [*first.glob("*.json"), *first.glob("*/*.json"), *first.glob("*/*/*.json")]:
        if path.name == "base.json":
            rewrite(path, lambda tasks: {**more, "tasks": tasks})
        elif path.name in ("result.json", "status.json", "identity.json", "driver.json", "spec.json"):
            rewrite(path, lambda record: {**record, **more})
    shrink = {"type": "shrink", "name": "shrink", "density": 0.1, "rate": 2}
    rewrite(first / "spec.json", lambda spec: {**spec, "methods": [*spec["methods"], shrink]})
    rewrite(first / "spec.json", lambda spec: {**spec, "search": {**spec["search"], "momentum": 0.9}})
    for path in first.glob("*/*/metrics.jsonl"):
        with path.open("a") as file:
            file.write('{"time": 2e9, "event": "weighed", "grams": 3}\n')
    (finished,) = (path for path in first.glob("*/status.json") if json.loads(path.read_text())["status"] == "finished")
    shrunk = Path(shutil.copytree(finished.parent, first / "shrink-12345678"))
    for path in [shrunk / "configuration.json", *shrunk.glob("*/spec.json"), *shrunk.glob("*/result.json")]:
        text = path.read_text().replace(finished.parent.name, shrunk.name)
        path.write_text(text.replace('"type": "gallop"', '"type": "shrink"').replace('"gallop"', '"shrink"'))
    rewrite(shrunk / "seed-2" / "result.json", lambda result: {**result, "status": "evaporated"})
    return first


def test_the_first_version_is_read(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = open_sweep(first)
    assert (stored.version, stored.left_out) == ("1.0", ())
    assert stored.whole() == stored.sweep
    runs = StatusReader(stored.folder, stored.sweep).look().runs
    assert runs == Counts(total=9, finished=4, pruned=4, failed=1, running=0, to_do=0)
    frame = gallop_ray.results(first)
    assert sorted(frame["status"]) == ["failed", *["finished"] * 4]
    (best,) = gallop_ray.best(first)
    assert (best.method, best.seeds) == ("gallop", 3)
    assert best.metrics["id_accuracy"][0] is not None
    for command in (["status"], ["best"], ["report", "--output", str(tmp_path / "page.html")]):
        assert main([command[0], str(first), *command[1:]]) == 0
    run = best.adapters[0].parent
    assert main(["export", str(run), "--to", "delta", "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "adapter.safetensors").read_bytes() == best.adapters[0].read_bytes()
    assert capsys.readouterr().err == ""


def test_a_newer_minor_version_is_read_and_what_is_left_out_is_said_once(
    newer: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        stored = open_sweep(newer)
        status = StatusReader(stored.folder, stored.sweep).look()
        frame = gallop_ray.results(newer)
        found = {best.method: best for best in gallop_ray.best(newer)}
        for command in (["status"], ["best", "--all"], ["report", "--output", str(tmp_path / "page.html")]):
            assert main([command[0], str(newer), *command[1:]]) == 0
        run = found["shrink"].adapters[0].parent
        assert main(["export", str(run), "--to", "delta", "--output", str(tmp_path / "out")]) == 0
    assert set(stored.left_out) == {"weather", "search.momentum"}
    assert status.methods["gallop"].runs == Counts(total=9, finished=4, pruned=4, failed=1, running=0, to_do=0)
    assert status.methods["shrink"].runs.finished == 2
    assert sorted(frame[frame["method"] == "shrink"]["seed"]) == [0, 1]
    assert (found["gallop"].seeds, found["shrink"].seeds) == (3, 2)
    assert found["shrink"].settings["methods"][0]["type"] == "shrink"
    assert "shrink" in (tmp_path / "page.html").read_text()
    said = [record.getMessage() for record in caplog.records]
    for path, words in (
        (newer / "spec.json", f"is of version {NEWER} of the records, newer than {VERSION}"),
        (newer / "spec.json", "search.momentum"),
        (newer / "spec.json", "a method shrink of the type shrink, which is not installed"),
        (newer / "shrink-12345678" / "seed-2" / "result.json", "has a wrong status: 'evaporated'; it is left out"),
        (run / "metrics.jsonl", "events that this version does not know (weighed); they are left out"),
    ):
        assert len([line for line in said if line.startswith(str(path)) and words in line]) == 1, (words, said)


def test_only_resume_insists_on_knowing_everything(newer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", str(newer)]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].endswith("resume it with that one")
    rewrite(newer / "spec.json", lambda spec: without(spec, "version", "weather"))
    assert main(["resume", str(newer)]) == 2
    assert "search.momentum" in capsys.readouterr().err
    rewrite(newer / "spec.json", lambda spec: {**spec, "search": without(spec["search"], "momentum")})
    assert main(["resume", str(newer)]) == 2
    assert "shrink" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_newer_major_version_is_refused_in_one_line(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(first / "spec.json", lambda spec: {**spec, "version": "2.0"})
    for command in ("status", "best", "report"):
        assert main([command, str(first)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "is of version 2.0 of the records, newer than" in line


@pytest.mark.parametrize("version", [3, "x", "1", None, "1.1\n"])
def test_a_version_that_is_none_is_damage(first: Path, version: object, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(first / "spec.json", lambda spec: {**spec, "version": version})
    assert main(["status", str(first)]) == 2
    assert "has a wrong version" in capsys.readouterr().err
