"""Requests to a bucket: what they promise, and under faults."""

from pathlib import Path

import pytest

from gallop_ray.disk.bucket.store import Bucket, BucketAway, BucketTrouble
from tests.bucket.server import Faulty, now_and_then


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


def test_waits_for_a_bucket_that_is_away_and_says_so_once(
    address: str, proxy: Faulty, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gallop_ray.disk.bucket.store._SILENT_SECONDS", 0.0)
    faults = iter(["503"] * 10)  # more than obstore itself retries
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
