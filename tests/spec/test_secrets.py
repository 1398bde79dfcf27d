"""Passwords in addresses: hidden wherever they stand, and what is no secret stays readable."""

import pytest

from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.secrets import hidden, hidden_in, lacks_secrets, with_secrets, without_secrets


def sweep(uri: str | None, storage: str | None = None) -> Sweep:
    return Sweep.model_validate(
        {
            "name": "demo",
            "model": {"name": "pocket"},
            "data": {"root": "generated", "train": "range", "ood": ["max"]},
            "methods": [{"type": "gallop"}],
            "tracking": {"uri": uri},
            "search": {"storage": storage},
        }
    )


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://alice:S3cret@host:5000", "http://***@host:5000"),
        ("http://S3cret@host", "http://***@host"),
        ("http://alice:S3/cret@host/base", "http://***@host/base"),
        ("postgresql+psycopg://alice:S3@cret@host/db", "postgresql+psycopg://***@host/db"),
        ("postgresql://alice:S3?cret@host/db", "postgresql://***@host/db"),
        ("postgresql://alice:S3#cret=1@host/db?sslmode=require", "postgresql://***@host/db?sslmode=require"),
        ("postgresql://host:5432/db?user=a@b&password=S3cret", "postgresql://host:5432/db?user=***&password=***"),
        ("https://host/?token=S3cret", "https://host/?token=***"),
        ("https://host/#S3cret", "https://host/#***"),
        ("postgresql:///db?host=h&password=S3cret", "postgresql:///db?host=***&password=***"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////home/me@work/a#b.db?timeout=3", "sqlite:////home/me@work/a#b.db?timeout=3"),
        ("alice:S3cret@host:5000", "***@host:5000"),
        ("databricks", "databricks"),
        ("./mlruns", "./mlruns"),
    ],
)
def test_an_address_without_its_secrets(address: str, shown: str) -> None:
    assert hidden(address) == shown
    assert hidden(shown) == shown, "what is hidden stays as it is"
    if "://" in address:
        assert hidden_in(f"cannot reach '{address}': no answer") == f"cannot reach '{shown}': no answer"


def test_a_message_that_quotes_parts_of_the_password_is_cleaned() -> None:
    address = "postgresql://alice:S3%2Fcret@Word@host/db?password=Other1"
    said = 'could not translate host name "Word@host"; S3/cret, S3%2Fcret and Other1 were tried'
    cleaned = hidden_in(said, address)
    assert not [part for part in ("Word", "S3/", "cret", "Other1") if part in cleaned], cleaned
    assert "could not translate host name" in cleaned


def test_records_keep_no_secret_and_the_source_gives_them_back() -> None:
    asked = sweep("http://alice:S3cret@host", "postgresql://host/db?password=Other1")
    kept = without_secrets(asked)
    assert "S3cret" not in kept.model_dump_json()
    assert "Other1" not in kept.model_dump_json()
    assert lacks_secrets(kept)
    assert with_secrets(kept, asked) == asked
    elsewhere = sweep("http://alice:S3cret@other", None)
    assert with_secrets(kept, elsewhere) == kept, "another server's password is not this one's"
    plain = sweep("http://host:5000", "sqlite:////tmp/a.db")
    assert without_secrets(plain) == plain
    assert not lacks_secrets(plain)
