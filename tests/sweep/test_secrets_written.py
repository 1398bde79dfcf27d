"""Secrets planted wherever a user may have them, and looked for in all that a sweep and its commands write and say."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gallop_ray.records.stored import open_sweep
from tests.sweep.command import run, write_sweep

_ENVIRONMENT = {name: f"plantedIn{name}" for name in ("HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "WANDB_API_KEY")}
_IN_FILE = ("plantedUser", "plantedWord", "plantedQuery", "plantedStudies")


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # a socket's path must be short
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _found(*folders: Path) -> list[tuple[str, str]]:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 50
    contents = [(path, path.read_bytes()) for path in files]
    planted = (*_ENVIRONMENT.values(), *_IN_FILE)
    return [(secret, str(path)) for path, content in contents for secret in planted if secret.encode() in content]


@pytest.mark.faults
def test_no_secret_is_written_or_said(tmp_path: Path, ray_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    sources = tmp_path / "sources"
    sources.mkdir()
    output = tmp_path / "runs"
    file = write_sweep(
        sources,
        output=str(output),
        methods=[{"type": "gallop", "density": 0.05}],
        search={"storage": f"sqlite:///file:{tmp_path / 'studies.db'}?uri=true&password=plantedStudies"},
        budget={"configurations": 1},
        seeds=1,
        tracking={"uri": "http://plantedUser:planted/planted@plantedWord@127.0.0.1:9/?token=plantedQuery"},
    )
    folder = str(output / "tiny")
    said = [run("plan", "--all", file), run("run", file)]
    assert [each.returncode for each in said] == [0, 0], said[-1].stdout
    # The records alone are enough to go on, as long as the file that has the passwords is there.
    said += [run("resume", folder), run("status", "--json", folder), run("report", folder), run("best", folder)]
    assert [each.returncode for each in said[2:]] == [0, 0, 0, 0], "\n".join(each.stdout for each in said)
    assert "plantedStudies" in str(open_sweep(folder).sweep.search.storage)
    assert (tmp_path / "studies.db").stat().st_size > 0, "the studies went where the file says"
    spoken = "\n".join(each.stdout for each in said)
    assert not [secret for secret in (*_ENVIRONMENT.values(), *_IN_FILE) if secret in spoken], spoken
    assert _found(output, ray_folder) == []
    spec = json.loads((output / "tiny/spec.json").read_text())
    assert spec["tracking"]["uri"] == "http://***@127.0.0.1:9/?token=***"
    file.unlink()
    refused = run("resume", folder)
    assert (refused.returncode, "keeps no passwords" in refused.stdout) == (2, True), refused.stdout
    assert os.environ["HF_TOKEN"], "it was there all the time"
