"""Copies of what lies in a bucket: the order in which files get there, and what other machines see."""

import threading
import time
from pathlib import Path

import pytest

from gallop_ray.disk.bucket.address import address_of, checked_address, copies, is_bucket, placed
from gallop_ray.disk.bucket.lease import LeaseLost
from gallop_ray.disk.bucket.tree import Tree, alone, present, push, tree_of
from gallop_ray.disk.regular import remove
from gallop_ray.disk.whole import append, drafted
from gallop_ray.records.files import read_json, write_json
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.identity import begun, settle
from gallop_ray.spec.places import folder_or_bucket
from tests.bucket.conftest import use_machine
from tests.bucket.server import BUCKET, Faulty, client, now_and_then, objects


def test_addresses() -> None:
    assert checked_address("s3://bucket/a/b/") == "s3://bucket/a/b"
    assert checked_address("s3:/bucket/a") == "s3://bucket/a"  # as pathlib writes it
    assert not is_bucket("/s3/x")
    assert not is_bucket("https://x/y")
    for wrong in ("s3://", "s3:///a", "s3://b/../c", "s3://b//c", "s3://key:secret@b/c", "s3://b/c?d"):
        with pytest.raises(ValueError, match="must be s3://"):
            checked_address(wrong)


def begin(address: str) -> tuple[Path, Tree]:
    """The sweep's folder on this machine."""
    folder = placed(f"{address}/sweep")
    folder.mkdir(parents=True, exist_ok=True)
    tree = tree_of(folder)
    assert tree is not None
    return folder, tree


def there(address: str, endpoint: str) -> list[str]:
    """The keys in the bucket, below the sweep."""
    prefix = f"{address.removeprefix(f's3://{BUCKET}/')}/sweep/"
    return [key.removeprefix(prefix) for key in objects(endpoint, prefix)]


def write(path: Path, text: str, durable: bool = True) -> None:
    """Write a file as records are written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with drafted(path, durable) as draft:
        draft.write_text(text)


def test_no_other_folder_is_a_copy(tmp_path: Path) -> None:
    assert tree_of(tmp_path / "x") is None
    assert address_of(tmp_path) == str(tmp_path)


def test_what_waits_goes_before_what_refers_to_it(address: str, server: str, proxy: Faulty) -> None:
    folder, _ = begin(address)
    run = folder / "gallop-1" / "seed-0"
    write(run / "mask.json", "{}", durable=False)
    append(run / "metrics.jsonl", b"{}\n")
    assert there(address, server) == []
    proxy.requests.clear()
    write(run / "result.json", "{}")
    sent = [path.rpartition("/")[2] for method, path, _ in proxy.requests if method == "PUT"]
    assert sorted(sent[:2]) == ["mask.json", "metrics.jsonl"]  # at the same time
    assert sent[2:] == ["result.json"]


def test_a_file_is_in_the_bucket_before_it_is_here(address: str, proxy: Faulty) -> None:
    folder, tree = begin(address)
    proxy.fault = lambda method, path: "dropped"
    with tree.waiting(1), pytest.raises(OSError, match="does not answer"):
        write(folder / "spec.json", "{}")
    assert not (folder / "spec.json").exists()


def test_a_worker_s_files_wait_for_the_end_of_its_job(address: str, server: str, proxy: Faulty) -> None:
    folder, tree = begin(address)
    tree.held = True
    run = folder / "gallop-1" / "seed-0"
    write(run / "adapter.safetensors", "tensors")
    write(run / "predictions.jsonl", "{}")
    write(run / "checkpoint.safetensors", "tensors")
    tree.share()
    remove(run / "checkpoint.safetensors")
    assert there(address, server) == [f"gallop-1/seed-0/{name}.safetensors" for name in ("adapter", "checkpoint")] + [
        "gallop-1/seed-0/predictions.jsonl"
    ]
    tree.flush()
    assert "gallop-1/seed-0/checkpoint.safetensors" not in there(address, server)


def test_what_waits_goes_at_the_same_time_up_to_what_refers_to_it(address: str, proxy: Faulty) -> None:
    """With one look at the lease for all that begins then."""
    folder, tree = begin(address)
    tree.held = True
    sent, asked, active, most = [], [], 0, []
    lock = threading.Lock()

    def slow(method: str, path: str) -> None:
        nonlocal active
        with lock:
            active += 1
        time.sleep(0.3)
        with lock:
            most.append(active)
            active -= 1
            sent.append((method, path.rpartition("/")[2]))

    run = folder / "gallop-1" / "seed-0" / "range"
    write(folder / "gallop-1" / "left.json", "{}")
    tree.flush()
    write(run / "spec.json", "{}", durable=False)
    write(run / "adapter.safetensors", "tensors")
    append(run.parent / "metrics.jsonl", b"{}\n")
    write(run / "result.json", "{}")
    write(run / "outputs.json", "{}", durable=False)
    remove(folder / "gallop-1" / "left.json")
    tree.bucket.guard = lambda: asked.append(len(sent))
    proxy.fault = slow
    tree.flush()
    assert set(sent[:3]) == {("PUT", name) for name in ("spec.json", "adapter.safetensors", "metrics.jsonl")}
    assert set(sent[3:5]) == {("PUT", "result.json"), ("PUT", "outputs.json")}
    assert [method for method, _ in sent[5:]] == ["POST"]  # that deletes
    assert asked == [0, 3, 5]
    assert max(most) == 3


def test_another_machine(address: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = begin(address)
    run = folder / "gallop-1" / "seed-0"
    write(folder / "spec.json", "{}")
    write(run / "adapter.safetensors", "tensors")
    write(run / "result.json", "{}")
    write(folder / "base_progress.json", "{}")
    write(folder / "mlflow.json", "{}")
    write(run / "mlflow.json", "{}")
    (folder / "ray").mkdir()
    write(folder / "ray" / "state.json", "{}")
    use_machine(tmp_path / "second", monkeypatch)
    other, tree = begin(address)
    assert other != folder
    tree.pull(other)
    here = sorted(path.relative_to(other).as_posix() for path in other.rglob("*") if path.is_file())
    assert here == ["gallop-1/seed-0/result.json", "mlflow.json", "spec.json"]
    assert tree.kept(other / "gallop-1/seed-0/adapter.safetensors") is not None
    assert present(other / "gallop-1/seed-0/adapter.safetensors")
    # What was removed and changed there is so here; what was only here is no record.
    remove(run / "result.json")
    write(folder / "spec.json", '{"changed": 1}')
    (other / "gallop-1" / "seed-0" / "mask.json").write_text("{}")
    tree.pull(other)
    assert sorted(path.name for path in (other / "gallop-1" / "seed-0").iterdir()) == ["adapter.safetensors"]
    assert (other / "spec.json").read_text() == '{"changed": 1}'


def test_any_name_of_a_task_comes_back(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds are folders with the names of tasks."""
    names = ["basics:capitals", "a b", "100%", "50%20", "é", "a*b", "#1", "~x", "a&b=c", "[x]", "a+b"]
    folder, _ = begin(address)
    for name in names:
        write(folder / "c" / "seed-0" / name / "result.json", name)
    use_machine(tmp_path / "second", monkeypatch)
    other, tree = begin(address)
    tree.pull(other)
    assert {name: (other / "c" / "seed-0" / name / "result.json").read_text() for name in names} == {
        name: name for name in names
    }
    assert len(list(other.rglob("result.json"))) == len(names)


def test_nothing_is_fetched_twice(address: str, proxy: Faulty) -> None:
    folder, tree = begin(address)
    write(folder / "spec.json", "{}")
    write(folder / "a" / "configuration.json", "{}")
    proxy.requests.clear()
    tree.pull(folder)
    assert [method for method, _, _ in proxy.requests] == ["GET"]  # the list


def test_a_folder_written_by_others_is_pushed(address: str, server: str) -> None:
    folder, tree = begin(address)
    (folder / "report").mkdir()
    (folder / "report" / "report.html").write_text("first")
    (folder / "report" / "old.svg").write_text("old")
    tree.push(folder / "report")
    (folder / "report" / "old.svg").unlink()
    (folder / "report" / "report.html").write_text("second one")
    tree.push(folder / "report")
    assert there(address, server) == ["report/report.html"]
    assert list(objects(server, address.removeprefix(f"s3://{BUCKET}/")).values()) == [b"second one"]


def test_who_may_not_write_writes_nothing(address: str, server: str) -> None:
    folder, tree = begin(address)

    def refuse() -> None:
        raise LeaseLost(address)

    tree.bucket.guard = refuse
    with pytest.raises(LeaseLost, match="taken over"):
        write(folder / "spec.json", "{}")
    assert there(address, server) == []


def test_workers_of_two_machines_agree_on_what_the_sweep_was_begun_with(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = begin(address)
    since = begun(SweepFolder(first))
    use_machine(tmp_path / "second", monkeypatch)
    second, _ = begin(address)
    assert begun(SweepFolder(second)) == since
    settle(SweepFolder(second), {"base": "aa"})
    settle(SweepFolder(first), {"base": "aa"})
    with pytest.raises(ValueError, match="other content"):
        settle(SweepFolder(first), {"base": "bb"})


def test_records_survive_faults(address: str, proxy: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.fault = now_and_then(seed=1, share=0.25)
    folder, _ = begin(address)
    for number in range(8):
        (folder / f"c-{number}").mkdir()
        write_json(folder / f"c-{number}" / "status.json", {"number": number})
        append(folder / "results.jsonl", b"{}\n")
    remove(folder / "c-0" / "status.json")
    write_json(folder / "spec.json", {})
    use_machine(tmp_path / "second", monkeypatch)
    other, tree = begin(address)
    tree.pull(other)
    assert [read_json(other / f"c-{number}" / "status.json") for number in range(1, 8)] == [
        {"number": number} for number in range(1, 8)
    ]
    assert not (other / "c-0" / "status.json").exists()
    assert (other / "results.jsonl").read_bytes() == b"{}\n" * 8


def test_views_are_apart_from_what_a_driver_writes(address: str) -> None:
    assert copies(address, "view") != copies(address, "work")
    assert address_of(copies(address, "view") / "sweep") == f"{address}/sweep"


def test_a_folder_made_by_another_tool_is_no_record(address: str, server: str) -> None:
    folder, tree = begin(address)
    write(folder / "a" / "configuration.json", "{}")
    prefix = address.partition(f"{BUCKET}/")[2]
    for name in ("", "sweep/", "sweep/a/", "sweep/b/"):
        client(server).put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=b"")
    (folder / "b").mkdir()
    tree.pull(folder)
    assert (folder / "a" / "configuration.json").exists()


def test_what_is_being_written_into_a_view_is_not_taken_for_old(address: str, server: str) -> None:
    """As the report, while `status --follow` brings the sweep in another process."""
    path = placed(f"{address}/sweep", "view")
    path.mkdir(parents=True)
    other = Tree(path.parent)  # as another process has it
    thread = threading.Thread(target=other.pull, args=(path,))
    with alone(path):
        thread.start()
        (path / "report").mkdir()
        (path / "report" / "report.html").write_text("new")
        thread.join(1)
        push(path / "report")
    thread.join(30)
    assert (path / "report" / "report.html").read_text() == "new"
    assert there(address, server) == ["report/report.html"]


def test_other_storages_are_refused_until_they_are_tried() -> None:
    for other in ("gs://bucket/x", "az://container/x"):
        with pytest.raises(ValueError, match="a bucket of S3 or what speaks its protocol"):
            folder_or_bucket(other)


def test_an_address_in_a_variable_is_checked_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUT", "s3://key:secret@bucket/x")
    with pytest.raises(ValueError, match="must be s3://"):
        folder_or_bucket("$OUT")
    monkeypatch.setenv("OUT", "s3://bucket/x/")
    assert folder_or_bucket("$OUT") == "s3://bucket/x"
