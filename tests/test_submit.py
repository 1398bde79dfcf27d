"""`gallop-ray submit`: what it refuses, what it seals, and a sweep on a local head that asks for a token, twice."""

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from gallop_ray.cli import main, sealed
from gallop_ray.cli import submit as submission
from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.schema import Sweep
from tests.ray_head import RAY, Head, ray_head
from tests.sweep.command import ROOT, TINY, write_sweep

_NOWHERE = "http://127.0.0.1:1"


def _public(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def test_only_the_holder_of_the_key_opens_what_was_sealed() -> None:
    key, variables = X25519PrivateKey.generate(), {"HF_TOKEN": "hf_planted", "ÄÖ": "€"}
    first, second = sealed.seal(variables, _public(key)), sealed.seal(variables, _public(key))
    assert sealed.unseal(first, key) == sealed.unseal(second, key) == variables
    assert first != second
    assert b"planted" not in first
    with pytest.raises(InvalidTag):
        sealed.unseal(first, X25519PrivateKey.generate())
    with pytest.raises(InvalidTag):
        sealed.unseal(first[:-1] + bytes([first[-1] ^ 1]), key)


def test_the_key_is_found_in_a_log() -> None:
    key = _public(X25519PrivateKey.generate())
    assert sealed.announced(f"some warning\n{sealed.SAID}{key.hex()}\nmore\n") == key
    assert sealed.announced("some warning\n") is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tracking": {"uri": "http://me:planted@host:5000"}}, "tracking.uri holds a password"),
        ({"search": {**TINY["search"], "storage": "postgresql://me:planted@host/s"}}, "holds a password"),
        ({"data": {"root": "numbers", "train": "a", "ood": []}}, "data.root: numbers is relative to this folder"),
        ({"nmae": "x"}, "nmae"),  # what validate refuses, before anything is asked of the cluster
    ],
)
def test_what_cannot_run_there_is_refused_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numbers").mkdir()
    for split in ("train", "test"):
        (tmp_path / f"numbers/a.{split}.jsonl").write_text('{"instruction": "1", "answer": "2"}\n' * 4)
    assert main(["submit", str(write_sweep(tmp_path, **changes)), "--address", _NOWHERE]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "planted" not in error
    assert "Traceback" not in error


_SAFE = "tracking.uri=http://host:5000"
_SECRET = "tracking.uri=http://me:planted@host:5000"


@pytest.mark.parametrize(
    ("uri", "overrides", "said"),
    [
        ("http://me:planted@host:5000", [_SAFE], "tiny.yaml:{line}: tracking.uri holds a password"),
        (None, [_SECRET, _SAFE], "--set tracking.uri holds a password"),
        (None, ["tracking={uri: http://me:planted@host:5000}", "tracking={}"], "--set tracking.uri holds a password"),
        (None, ["search.storage=postgresql://me:planted@host/s", "search.storage=null"], "--set search.storage holds"),
    ],
)
def test_a_password_is_refused_that_a_later_override_hides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], uri: str | None, overrides: list[str], said: str
) -> None:
    """The file and all overrides are sent as they are."""
    file = write_sweep(tmp_path, tracking={"uri": uri})
    line = 1 + file.read_text().splitlines().index(f"  uri: {uri or 'null'}")
    given = [part for each in overrides for part in ("--set", each)]
    assert main(["submit", str(file), "--address", _NOWHERE, *given]) == 2
    error = capsys.readouterr().err
    assert said.format(line=line) in error
    assert "planted" not in error


def test_a_relative_earlier_sweep_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_sweep(tmp_path)
    earlier = load_sweep(file)
    SweepFolder(tmp_path / "runs" / "tiny").create(earlier.model_dump(mode="json"))
    later = ["name=later", "search.warm_start=[runs/tiny]"]
    given = [part for each in later for part in ("--set", each)]
    assert main(["submit", str(file), "--address", _NOWHERE, *given]) == 2
    assert "search.warm_start: runs/tiny is relative to this folder" in capsys.readouterr().err


def test_a_relative_delta_and_task_file_are_refused() -> None:
    for field, changes in {
        "model.delta": {"model": {"name": "pocket", "delta": "runs/tiny/gallop-1/seed-0"}},
        "data.tasks.mine.harness": {
            "data": {"train": "range", "ood": ["mine"], "tasks": {"mine": {"harness": "mine.yaml"}}}
        },
    }.items():
        with pytest.raises(ValueError, match=rf"{field}: .* is relative to this folder"):
            submission._refuse(Sweep.model_validate({**TINY, **changes}))


def test_what_lies_in_a_bucket_is_no_file_of_this_folder() -> None:
    search = {**TINY["search"], "warm_start": ["s3://bucket/x/early"]}
    sweep = Sweep.model_validate({**TINY, "output": "s3://bucket/x", "search": search})
    submission._refuse(sweep)
    assert submission._folder(sweep) == f"s3://bucket/x/{sweep.name}"
    for name in ("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "AWS_SSE_KMS_KEY_ID"):
        assert submission._PASSED_ON.fullmatch(name)
    assert not submission._PASSED_ON.fullmatch("AWS_WEB_IDENTITY_TOKEN_FILE")  # a file of this machine


def test_without_an_address_it_says_how_to_give_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert main(["submit", str(write_sweep(tmp_path))]) == 2
    assert "give --address, or RAY_API_SERVER_ADDRESS" in capsys.readouterr().err


# -- on a server

_SECRETS = {"HF_TOKEN": "hf_planted0token", "MLFLOW_TRACKING_USERNAME": "planted0user"}
_PASSWORD = {"MLFLOW_TRACKING_PASSWORD": "planted0password"}


_SEEN = """
import hashlib, os
from pathlib import Path

import psutil

from gallop_ray.spec.metrics import Metric

if "TrainWorker" in psutil.Process().cmdline()[0]:
    token = os.environ.get("HF_TOKEN", "").encode()
    Path({folder!r}, f"worker-{{os.getpid()}}").write_text(hashlib.sha256(token).hexdigest())

gain = Metric(name="id_gain", label="gain", value=lambda tuned, base: 1.0, needs_ood=False)
"""


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serves with it; the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def _listener() -> Iterator[tuple[str, set[str]]]:
    """A server that refuses everything, as MLflow's does to strangers, and the credentials that it was given."""
    seen: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        def _refuse(self) -> None:
            seen.add(self.headers.get("Authorization", ""))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = do_PUT = do_PATCH = _refuse

        def log_message(self, *_: Any) -> None: ...

    with _serving(Handler) as address:
        yield address, seen


@pytest.mark.parametrize("variable", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
def test_the_address_that_is_given_wins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Ray's own client prefers the environment."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    with _listener() as (another, asked):
        monkeypatch.setenv(variable, another)
        assert main(["submit", str(write_sweep(tmp_path)), "--address", _NOWHERE]) == 2
    assert f"no Ray dashboard answers at {_NOWHERE}" in capsys.readouterr().err
    assert not asked


def test_what_refuses_strangers_takes_no_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    with _listener() as (address, asked):
        assert main(["submit", str(write_sweep(tmp_path)), "--address", address]) == 2
    error = capsys.readouterr().err
    assert f"the cluster at {address} takes no jobs: " in error
    assert "cluster/README.md" in error
    assert asked


@contextmanager
def _dashboard(*jobs: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """One that lists these jobs, and what is submitted to it, which ends at once."""
    job = {"type": "SUBMISSION", "entrypoint": "python", "status": "SUCCEEDED"}
    pages = {"/api/version": {"ray_version": ray.__version__}, "/api/jobs/": [{**job, **each} for each in jobs]}
    submitted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(pages.get(self.path, job))

        def do_POST(self) -> None:
            submitted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            name = submitted[-1]["submission_id"]
            self._answer({"job_id": name, "submission_id": name})

        def _answer(self, answer: object) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with _serving(Handler) as address:
        yield address, submitted


def test_a_running_sweep_of_that_name_is_ones_own_only_in_the_same_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "RAY_"))] + ["HF_TOKEN", "PGPASSWORD"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    file = str(write_sweep(tmp_path))
    strangers = {"gallop_ray_sweep": "tiny", "gallop_ray_folder": "/home/stranger/runs/tiny"}
    running = {"submission_id": "tiny-1", "status": "RUNNING", "metadata": strangers}
    with _dashboard(running) as (address, submitted):
        assert main(["submit", file, "--address", address, "--wait"]) == 0
    assert "sweep tiny submitted as job tiny-2" in capsys.readouterr().out
    assert [job["submission_id"] for job in submitted] == ["tiny-2"]
    own = {"submission_id": "tiny-2", "status": "RUNNING", "metadata": submitted[0]["metadata"]}
    with _dashboard(running, own) as (address, submitted):
        assert main(["submit", file, "--address", address]) == 2
        assert "is running already, as job tiny-2" in capsys.readouterr().err
        assert submitted == []
    with _dashboard(running, {**own, "status": "STOPPED"}) as (address, submitted):
        assert main(["submit", file, "--address", address]) == 0
    assert "sweep tiny resumes as job tiny-3" in capsys.readouterr().out


# -- on a real head


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, Head, Path]]:
    """A head's dashboard address, the head, and the folder in which Ray writes."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as rays:  # sockets lie in it: a short path
        dashboard = _free_port()
        options = (f"--port={_free_port()}", f"--dashboard-port={dashboard}", "--num-cpus=2")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # of the `python` that jobs name
        with ray_head(tmp_path, *options, RAY_TMPDIR=rays, NO_PROXY="127.0.0.1", PATH=path) as head:
            yield f"http://127.0.0.1:{dashboard}", head, Path(rays)


def _gallop_ray(env: dict[str, str], *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "gallop_ray", *map(str, arguments)]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)


def _written(*folders: Path) -> Iterator[tuple[Path, bytes]]:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield path, path.read_bytes()


@pytest.mark.long
def test_a_sweep_is_submitted_twice_and_its_secrets_are_in_no_file(
    cluster: tuple[str, Head, Path], tmp_path: Path
) -> None:
    address, head, rays = cluster
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "seen.py").write_text(_SEEN.format(folder=str(folder)))
    own = {"evaluation": {**TINY["evaluation"], "metrics": ["seen:gain"]}}
    sweep = write_sweep(
        folder, methods=[{"type": "gallop"}, {"type": "random"}], search={"space": {}}, budget={}, **own
    )
    submit = ("submit", sweep, "--address", address)
    with _listener() as (mlflow, seen):
        env = {
            **head.env,
            **_SECRETS,
            **_PASSWORD,
            "MLFLOW_TRACKING_URI": mlflow,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        }
        stranger = {key: value for key, value in env.items() if not key.startswith("RAY_AUTH")}
        until = time.monotonic() + 120
        while True:  # the head is up before its agent is
            refused = _gallop_ray({**stranger, "HOME": str(folder)}, *submit)
            if "takes no jobs" in refused.stderr or time.monotonic() > until:
                break
            time.sleep(2)
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert "takes no jobs" in refused.stderr
        first = _gallop_ray(env, *submit, "--follow")
        while "No available agent" in first.stdout + first.stderr and time.monotonic() < until:
            time.sleep(2)
            first = _gallop_ray(env, *submit, "--follow")
        assert first.returncode == 0, first.stdout + first.stderr
        assert "sweep tiny submitted as job tiny-1" in first.stdout
        assert "passed on, sealed: HF_TOKEN, MLFLOW_HTTP_REQUEST_MAX_RETRIES" in first.stdout
        done = SweepFolder(folder / "runs" / "tiny").results()
        assert [result.status for result in done] == ["finished"] * 4
        second = _gallop_ray(env, *submit, "--wait")
        assert second.returncode == 0, second.stdout + second.stderr
        assert "sweep tiny resumes as job tiny-2" in second.stdout
    results = SweepFolder(folder / "runs" / "tiny").results()
    assert results == done, "what was finished has not run again"
    pair = base64.b64encode(b"planted0user:planted0password").decode()
    assert f"Basic {pair}" in seen, "the driver has the variables"
    hashed = hashlib.sha256(_SECRETS["HF_TOKEN"].encode()).hexdigest()
    workers = [path.read_text() for path in folder.glob("worker-*")]
    assert workers == [hashed] * len(workers) != [], "the workers have the token"
    listing = [RAY, "job", "list", "--address", address]
    jobs = subprocess.run(listing, env=head.env, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "tiny-2" in jobs
    planted = [value.encode() for value in (*_SECRETS.values(), *_PASSWORD.values())] + [pair.encode()]
    places = {"output": first.stdout + first.stderr + second.stdout + second.stderr, "jobs": jobs}
    for value in planted:
        assert [place for place, text in places.items() if value.decode() in text] == []
        assert [path for path, content in _written(rays, folder) if value in content] == []
    assert len(list(_written(rays))) > 10, "the place where Ray writes was searched"
