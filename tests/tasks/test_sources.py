"""Which rows are of which split: by shares, by the files' names, by what a dataset was saved with."""

import gzip
import json

import pytest
from datasets import Dataset
from pydantic import ValidationError

from gallop_ray.tasks.load import load_task
from tests.tasks.test_formats import data, lines, read

ROWS = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(100)]


def counted(**fields):
    found = load_task("mine", data(**fields))
    return [len(part) for part in (found.train, found.validation, found.test)]


@pytest.mark.parametrize(
    ("splits", "counts"),
    [
        ({"train": 0.8}, [72, 8, 20]),
        ({"train": 0.8, "test": 0.2}, [72, 8, 20]),
        ({"train": 0.8, "validation": 0.1, "test": 0.1}, [80, 10, 10]),
        ({"train": 0.8, "validation": 0.1}, [80, 10, 10]),
        ({"train": 0.3, "validation": 0.1, "test": 0.2}, [30, 10, 20]),
        ({"validation": 0.2, "test": 0.3}, [50, 20, 30]),
    ],
)
def test_shares_are_of_the_same_rows_and_train_has_no_more_than_its_own(tmp_path, splits, counts):
    assert counted(source=str(lines(tmp_path / "a.jsonl", *ROWS)), splits=splits) == counts


def test_a_share_of_the_training_file_leaves_the_test_file_alone(tmp_path):
    lines(tmp_path / "train.jsonl", *ROWS[:50])
    lines(tmp_path / "test.jsonl", *ROWS[50:70])
    assert counted(source=str(tmp_path), splits={"train": 0.5}) == [23, 2, 20]


def test_shares_that_are_more_than_all_rows_or_leave_none_are_refused(tmp_path):
    path = str(lines(tmp_path / "a.jsonl", *ROWS))
    for splits, said in (
        ({"validation": 0.6, "test": 0.6}, r"the shares add up to 1\.2"),
        ({"validation": 0.5, "test": 0.5}, "nothing is left to train on"),
        ({"train": 0.9, "test": 0.3}, r"the shares add up to 1\.2"),
    ):
        with pytest.raises(ValidationError, match=said):
            data(source=path, splits=splits)
    with pytest.raises(ValueError, match="the shares in splits leave nothing to test on"):
        counted(source=path, splits={"train": 0.8, "validation": 0.2})


def files_of(task, split):
    return {one.place.rpartition(":")[0].rpartition("/")[2] for one in getattr(task, split)}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train.jsonl", "test.jsonl"),
        ("train_delays.train.jsonl", "train_delays.test.jsonl"),
        ("val_loss.train.jsonl", "val_loss.test.jsonl"),
        ("train-00000-of-00001.jsonl", "test-00000-of-00001.jsonl"),
        ("tickets.train.2024.jsonl", "tickets.test.2024.jsonl"),
        ("Train_data.jsonl", "eval-set.jsonl"),
    ],
)
def test_a_files_split_is_the_last_that_its_name_says(tmp_path, train, test):
    lines(tmp_path / train, *ROWS[:50])
    lines(tmp_path / test, *ROWS[50:70])
    (tmp_path / "README.txt").write_text("What this is.\n")
    found = load_task("mine", data(source=str(tmp_path)))
    assert (files_of(found, "train"), files_of(found, "test")) == ({train}, {test})
    assert len(found.test) == 20


def test_a_file_beside_those_of_splits_and_one_that_is_there_twice_are_refused(tmp_path):
    lines(tmp_path / "train.jsonl", *ROWS[:50])
    lines(tmp_path / "test.jsonl", *ROWS[50:70])
    extra = lines(tmp_path / "extra.jsonl", *ROWS[70:])
    with pytest.raises(ValueError, match=r"extra.jsonl: the name says no split, and that of test.jsonl does; give"):
        load_task("mine", data(source=str(tmp_path)))
    extra.unlink()
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress((tmp_path / "train.jsonl").read_bytes()))
    with pytest.raises(ValueError, match=r"train.jsonl.gz and train.jsonl are one file of two kinds"):
        load_task("mine", data(source=str(tmp_path)))
    named = {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")}
    assert counted(source=named["train"], splits=named) == [45, 5, 20]


def test_a_saved_datasets_own_format_is_not_how_it_is_read(tmp_path):
    dataset = Dataset.from_dict({"text": [f"text {i}" for i in range(20)], "label": [i % 2 for i in range(20)]})
    for name, kept in (("torch", None), ("pandas", None), (None, ["text"])):
        dataset.with_format(name, columns=kept).save_to_disk(tmp_path / f"{name}")
        assert {one.options for one in read(tmp_path / f"{name}")} == {("0", "1")}


def test_of_mappings_in_a_list_arrow_invents_no_keys(tmp_path):
    calls = [{"name": "weather", "arguments": {"city": "Rome"}}, {"name": "add", "arguments": {"a": 1, "b": 2}}]
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{i}?"},
                {"role": "assistant", "tool_calls": [{"function": calls[i % 2]}]},
            ],
            "tools": [calls[i % 2]],
        }
        for i in range(20)
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert {one.messages[1].more for one in found} == {
        json.dumps({"tool_calls": [{"function": each}]}) for each in calls
    }
    assert {one.tools for one in found} == {json.dumps([each]) for each in calls}
