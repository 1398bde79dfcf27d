"""Models and data in a bucket: copied once to a machine, of one version, and as good as local ones."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gallop_ray.cli.init import _has_chat, _model
from gallop_ray.disk.bucket import inputs
from gallop_ray.disk.bucket.errors import BucketTrouble
from gallop_ray.disk.bucket.inputs import brought
from gallop_ray.preflight.proposals import loaded
from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.data import ModelSpec
from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.problems import SweepFileError
from gallop_ray.spec.references import addresses
from gallop_ray.tasks.load import load_task
from gallop_ray.training import models
from gallop_ray.training.models import load_model, local_tokenizer, meta_model, model_source, tokenizer_and_ends
from tests.bucket.conftest import use_machine
from tests.bucket.server import BUCKET, Faulty, client, variables
from tests.bucket.sweeps import SMALL, Machines, planted
from tests.faults import books
from tests.sweep import command

ROWS = [{"instruction": f"Say {n}.", "output": f"{n}", "answer": str(n)} for n in range(40)]
Put = Callable[[str, bytes], str]


@pytest.fixture
def put(server: str, tmp_path: Path) -> Put:
    """Write an object into the test's place, as another program; its address."""

    def write(key: str, data: bytes) -> str:
        client(server).put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/{key}", Body=data)
        return f"s3://{BUCKET}/{tmp_path.name}/{key}"

    return write


def as_new() -> None:
    """As a process that has just started."""
    inputs._brought.cache_clear()
    inputs._seen.cache_clear()


@pytest.fixture(autouse=True)
def forget(address: str) -> None:
    as_new()


def lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def fetched(proxy: Faulty) -> list[str]:
    """The names of the files that were fetched, as often as they were."""
    asked = [path for method, path, _ in proxy.requests if method == "GET" and "list-type" not in path]
    return [path.partition("?")[0].rpartition("/")[2] for path in asked]


def gets(proxy: Faulty) -> int:
    """How many files were fetched."""
    return len(fetched(proxy))


def test_a_folder_is_copied_once_to_a_machine(
    put: Put, proxy: Faulty, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("model/config.json", b"{}")
    put("model/deeper/odd name =%41.txt", b"text")
    put("model-2/config.json", b"other")
    for process in range(3):
        as_new()
        found = Path(brought(f"{address}/model/"))
        assert found.name == "model"
        files = {str(each.relative_to(found)): each.read_bytes() for each in found.rglob("*") if each.is_file()}
        assert files == {"config.json": b"{}", "deeper/odd name =%41.txt": b"text"}
        assert gets(proxy) == 2, process
    use_machine(tmp_path / "second", monkeypatch)
    as_new()
    assert brought(f"{address}/model") != str(found)
    assert gets(proxy) == 4
    assert brought("generated") == "generated"


def test_before_a_sweep_all_but_the_weights_is_copied(
    put: Put, proxy: Faulty, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in Path(model_source("pocket")).iterdir():
        put(f"model/{file.name}", file.read_bytes())
    spec = ModelSpec(name=f"{address}/model")
    assert (_model(spec.name), _has_chat(spec.name)) == (spec.name, False), "for init"
    monkeypatch.setattr(models, "_TRIED_WHOLE", 10)
    assert loaded(spec) == f"{spec.name} is large"
    assert local_tokenizer(spec) is not None
    assert sum(p.numel() for p in meta_model(spec).parameters()) > 1e5
    tokenizer_and_ends(spec)
    files = [file.name for file in Path(model_source("pocket")).iterdir() if file.suffix != ".safetensors"]
    assert sorted(fetched(proxy)) == sorted(files)
    load_model(spec)
    before = gets(proxy)
    as_new()
    assert Path(model_source(spec.name, weights=False), "model.safetensors").exists(), "what is there whole is read"
    assert gets(proxy) == before


def test_a_process_reads_one_version_and_the_next_the_new_one(put: Put, address: str) -> None:
    file = put("data/rows.jsonl", b"first")
    first = brought(file)
    put("data/rows.jsonl", b"second")
    assert brought(file) == first
    assert Path(first).read_bytes() == b"first"
    as_new()
    assert Path(brought(file)).read_bytes() == b"second"
    assert Path(first).read_bytes() == b"first", "who reads it is not disturbed"


def test_what_breaks_off_leaves_nothing_and_is_copied_by_the_next(
    put: Put, proxy: Faulty, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("data/a.jsonl", b"a" * 1000)
    put("data/b.jsonl", b"b" * 1000)
    monkeypatch.setattr(inputs, "_PATIENCE", 1.0)
    proxy.fault = lambda method, path: "503" if path.endswith("b.jsonl") else None
    with pytest.raises(BucketTrouble, match="does not answer"):
        brought(f"{address}/data")
    proxy.fault = lambda method, path: None
    (folder,) = Path(os.environ["GALLOP_RAY_BUCKET_CACHE"]).glob("*/input")
    assert not list(folder.glob(".partial*"))
    (folder / ".partial-of-a-process-that-was-killed").mkdir()
    found = Path(brought(f"{address}/data"))
    assert [len(each.read_bytes()) for each in sorted(found.iterdir())] == [1000, 1000]
    assert not list(found.parent.parent.glob(".partial*"))


def test_cut_answers_are_asked_for_again(put: Put, proxy: Faulty, address: str) -> None:
    file, cuts = put("rows.jsonl", b"r" * 5000), []
    proxy.fault = lambda method, path: cuts.append(path) or "cut" if method == "GET" and len(cuts) < 2 else None
    assert Path(brought(file)).read_bytes() == b"r" * 5000
    assert len(cuts) == 2


def test_an_address_without_anything_is_refused_by_name(put: Put, address: str, tmp_path: Path) -> None:
    put("model/config.json", b"{}")
    with pytest.raises(ValueError, match=rf"{address}/modal is not there"):
        brought(f"{address}/modal")
    with pytest.raises(ValueError, match="whole bucket"):
        brought(f"s3://{BUCKET}")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"name": "gs://b/m"}}, 'model.name: "gs://b/m" is not allowed; give a path'),
        ({"model": {"name": "s3://b"}}, 'model.name: "s3://b" is not allowed; s3://b is a whole bucket'),
        ({"model": {"name": "s3://key@b/m"}}, "model.name: .*must be s3://"),
        ({"model": {"name": "s3://b/m", "revision": "main"}}, "model.revision: .*no hub id"),
        ({"data": {**SMALL["data"], "root": "https://b/d"}}, 'data.root: "https://b/d" is not allowed'),
        ({"data": {**SMALL["data"], "tasks": {"range": "gs://b/d.csv"}}}, 'tasks.range: "gs://b/d.csv" is not allowed'),
        ({"evaluation": {"text": "s3://b/text.csv"}}, "evaluation.text: .*give a .jsonl file"),
    ],
)
def test_other_addresses_are_refused_by_line(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    file = command.write_sweep(tmp_path, **changes)
    with pytest.raises(SweepFileError, match=said):
        load_sweep(str(file))


def test_init_takes_a_file_or_a_folder_of_a_bucket(put: Put, address: str, tmp_path: Path) -> None:
    chat = put("chat.jsonl", lines([{"prompt": f"What is {n}?", "completion": str(n)} for n in range(60)]))
    for split in ("train", "test"):
        put(f"data/mine.{split}.jsonl", lines(ROWS))
    for number, place in enumerate((chat, f"{address}/data")):
        file = tmp_path / f"{number}.yaml"
        done = command.run("init", file, "--data", place, "--model", "pocket")
        assert done.returncode == 0, done.stdout
        assert f"{address}/" in file.read_text()


def test_every_field_of_an_address_is_known(put: Put, tmp_path: Path, address: str) -> None:
    """Workers on other nodes are given the keys for the bucket where any of them is one."""
    rows = put("rows.csv", b"text,label\n" + b"good,yes\nbad,no\n" * 20)
    file = command.write_sweep(
        tmp_path,
        model={"name": f"{address}/model"},
        data={
            **{"root": f"{address}/data/", "train": "mine", "ood": ["range"]},
            "tasks": {"mine": {"source": rows, "splits": {"test": rows}}},
        },
        evaluation={"text": f"{address}/text.jsonl"},
    )
    sweep = load_sweep(str(file))
    assert {".".join(path): place.removeprefix(address) for path, place in addresses(sweep).items()} == {
        "model.name": "/model",
        "data.root": "/data",
        "data.tasks.mine.source": "/rows.csv",
        "data.tasks.mine.splits.test": "/rows.csv",
        "evaluation.text": "/text.jsonl",
    }
    assert len(load_task("mine", sweep.data, ("test",)).test) == 40


def test_a_sweep_reads_all_from_a_bucket(put: Put, server: str, tmp_path: Path) -> None:
    """The same results as with the same files on the disk."""
    places = {"model": Path(model_source("pocket")), "data": tmp_path / "files"}
    places["data"].mkdir()
    for split, rows in {"train": ROWS, "test": ROWS[:20]}.items():
        (places["data"] / f"mine.{split}.jsonl").write_bytes(lines(rows))
        (places["data"] / f"other.{split}.jsonl").write_bytes(lines(ROWS[20:]))
    text = tmp_path / "text.jsonl"
    text.write_bytes(lines([{"text": f"A text about {n}."} for n in range(10)]))
    put("text.jsonl", text.read_bytes())
    for name, folder in places.items():
        for file in folder.iterdir():
            put(f"{name}/{file.name}", file.read_bytes())
    found = {}
    for where, prefix in (("disk", None), ("bucket", f"s3://{BUCKET}/{tmp_path.name}")):
        (folder := tmp_path / where).mkdir()
        changes = {
            **SMALL,
            "model": {"name": f"{prefix}/model" if prefix else str(places["model"])},
            "data": {"root": f"{prefix}/data" if prefix else str(places["data"]), "train": "mine", "ood": ["other"]},
            "evaluation": {"max_new_tokens": 4, "text": f"{prefix}/text.jsonl" if prefix else str(text)},
        }
        file = command.write_sweep(folder, **changes)
        env = {**variables(server), "GALLOP_RAY_BUCKET_CACHE": str(tmp_path / "copies")} if prefix else {}
        for what in ("doctor", "plan", "run") if prefix else ("run",):
            process = command.start(what, file, env=env)
            output, _ = process.communicate(timeout=600)
            assert process.returncode == 0, output
        found[where] = SweepFolder(folder / "runs" / "tiny")
    assert books.outcomes(found["bucket"]) == books.outcomes(found["disk"])
    assert (found["bucket"].path / "base.json").read_bytes() == (found["disk"].path / "base.json").read_bytes()
    assert not planted(tmp_path)
    (run,) = (each for each in found["bucket"].runs() if each.configuration.startswith("gallop"))
    merged = tmp_path / "merged"
    process = command.start("export", run.path, "--to", "merged", "--output", merged, env=env)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert (merged / "config.json").exists()


def test_nothing_there_is_said_before_anything_starts(server: str, tmp_path: Path) -> None:
    machines = Machines(tmp_path, server, server, {"model": {"name": f"s3://{BUCKET}/none/model"}})
    for what, code in (("doctor", 1), ("plan", 2), ("run", 2)):
        done = machines.run(what, machines.sweep)
        assert done.returncode == code, done.stdout
        assert f"s3://{BUCKET}/none/model is not there" in done.stdout, done.stdout
    assert not (tmp_path / "runs").exists()
