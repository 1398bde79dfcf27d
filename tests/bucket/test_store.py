"""Requests to a bucket: what they promise, and under faults."""

from pathlib import Path

import pytest

from gallop_ray.disk.bucket.errors import BucketAway, BucketTrouble
from gallop_ray.disk.bucket.reach import reach
from gallop_ray.disk.bucket.store import Bucket
from tests.bucket.server import BUCKET, Faulty, client, now_and_then


def test_conditions(address: str) -> None:
    bucket = Bucket(address)
    first = bucket.create("a/k", b"first")
    assert first is not None
    assert bucket.create("a/k", b"second") is None
    second = bucket.swap("a/k", b"third", first)
    assert second is not None
    assert bucket.swap("a/k", b"fourth", first) is None
    assert bucket.swap("none", b"fifth", first) is None
    found = bucket.get("a/k")
    assert found is not None
    assert (found[0], found[1].tag) == (b"third", second)
    assert bucket.get("none") is None
    assert bucket.head("none") is None
    bucket.delete("a/k")
    bucket.delete("a/k")
    assert bucket.list("a/") == {}


def test_large_files_are_sent_and_fetched_whole(address: str, tmp_path: Path) -> None:
    bucket, data = Bucket(address), bytes(range(256)) * 50_000
    (tmp_path / "large").write_bytes(data)
    tag = bucket.put("large", tmp_path / "large")
    found = bucket.fetch("large", tmp_path / "again")
    assert found is not None
    assert (found.tag, found.size) == (tag, len(data))
    assert (tmp_path / "again").read_bytes() == data
    assert set(bucket.list("")) == {"large"}


@pytest.mark.parametrize("kind", ["503", "dropped", "lost", "cut"])
def test_every_second_request_fails(address: str, proxy: Faulty, tmp_path: Path, kind: str) -> None:
    """A lost answer to a conditional write is the hard case: its retry meets what it has written itself."""
    count = 0

    def fault(method: str, path: str) -> str | None:
        nonlocal count
        count += 1
        return kind if count % 2 else None

    proxy.fault = fault
    bucket = Bucket(address)
    tag = bucket.create("k", b"mine")
    assert tag is not None
    assert (tag := bucket.swap("k", b"mine again", tag)) is not None
    assert bucket.swap("k", b"another", "of no version") is None
    found = bucket.get("k")
    assert found is not None
    assert found[0] == b"mine again"
    bucket.put("body", b"x" * 100_000)
    assert bucket.fetch("body", tmp_path / "body") is not None
    assert (tmp_path / "body").read_bytes() == b"x" * 100_000
    assert len(bucket.list("")) == 2
    bucket.delete("k")
    assert set(bucket.list("")) == {"body"}


def test_a_conflict_that_nobody_won_is_tried_again(address: str, proxy: Faulty) -> None:
    answers = iter(["409"] * 3)
    proxy.fault = lambda method, path: next(answers, None) if method == "PUT" else None
    assert Bucket(address).create("k", b"mine") is not None


def test_a_stalled_upload_is_tried_again(address: str, proxy: Faulty) -> None:
    answers = iter(["400"])
    proxy.fault = lambda method, path: next(answers, None)
    assert Bucket(address).put("k", b"mine")


def test_a_large_object_comes_in_pieces_of_one_version(
    address: str, proxy: Faulty, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece has its own time and its own retries, and a change in between begins it again."""
    monkeypatch.setattr("gallop_ray.disk.bucket.store._PIECE", 1000)
    bucket, gets, key = Bucket(address), 0, f"{tmp_path.name}/k"
    client(server).put_object(Bucket=BUCKET, Key=key, Body=b"old" * 1000)

    def fault(method: str, path: str) -> str | None:
        nonlocal gets
        gets += method == "GET"
        if gets == 4:
            client(server).put_object(Bucket=BUCKET, Key=key, Body=b"newer" * 1000)
        return "cut" if gets == 7 else None

    proxy.fault = fault
    proxy.requests.clear()
    found = bucket.fetch("k", tmp_path / "k")
    assert found is not None
    assert found.size == 5000
    assert (tmp_path / "k").read_bytes() == b"newer" * 1000
    assert sum(method == "GET" for method, _, _ in proxy.requests) < 14  # the cut piece alone came twice


def test_empty_objects_of_folders_are_no_files(address: str, server: str) -> None:
    """As S3's console, s3fs and Mountpoint make them."""
    bucket, prefix = Bucket(address), address.partition(f"{BUCKET}/")[2]
    for name in ("", "s/", "s/a/"):
        client(server).put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=b"")
    bucket.put("s/a/k", b"1")
    bucket.put("s/empty", b"")
    assert set(bucket.list("s/")) == {"s/a/k", "s/empty"}
    assert set(bucket.list("")) == {"s/a/k", "s/empty"}
    assert bucket.folders() == {"s"}


def test_what_lies_there_already_is_not_listed_for_the_trial(address: str, proxy: Faulty) -> None:
    bucket = Bucket(address)
    for number in range(3):
        bucket.put(f"earlier/{number}", b"1")
    proxy.requests.clear()
    reach(address)
    listed = [path for method, path, _ in proxy.requests if method == "GET" and "list-type" in path]
    assert len(listed) == 1
    assert ".tried-" in listed[0]
    assert set(bucket.list("")) == {"earlier/0", "earlier/1", "earlier/2"}


def test_waits_for_a_bucket_that_is_away_and_says_so_once(
    address: str, proxy: Faulty, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gallop_ray.disk.bucket.store._SILENT_SECONDS", 0.0)
    faults = iter(["503"] * 4)
    proxy.fault = lambda method, path: next(faults, None)
    Bucket(address).put("k", b"mine")
    said = [each.getMessage() for each in caplog.records if each.name.startswith("gallop_ray")]
    assert len(said) == 2
    assert "does not answer" in said[0]
    assert "answers again" in said[1]


def test_patience_ends(address: str, proxy: Faulty) -> None:
    proxy.fault = lambda method, path: "dropped"
    with pytest.raises(BucketAway, match="does not answer"):
        Bucket(address).put("k", b"mine", patience=1)


def test_a_wrong_bucket_is_refused_at_once(address: str) -> None:
    wrong = Bucket("s3://no-such-bucket/x")
    for ask in (lambda: wrong.put("k", b"1"), lambda: wrong.get("k"), lambda: wrong.list("")):
        with pytest.raises(BucketTrouble, match=r"NoSuchBucket") as error:
            ask()
        assert "give a bucket that exists as output" in str(error.value)
        assert "planted-secret" not in str(error.value)


def test_random_faults(address: str, proxy: Faulty) -> None:
    proxy.fault = now_and_then(seed=0, share=0.2)
    bucket, tag = Bucket(address), None
    for number in range(20):
        data = f"{number}".encode()
        tag = bucket.create("k", data) if tag is None else bucket.swap("k", data, tag)
        assert tag is not None
        found = bucket.get("k")
        assert found is not None
        assert found[0] == data
