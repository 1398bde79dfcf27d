"""Rows that are given in Python."""

import json

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.load import load_task
from gallop_ray.tasks.sources.given import with_rows

ROWS = {"text": [f"text {i}" for i in range(20)], "label": [i % 2 for i in range(20)]}
NAMED = Dataset.from_dict(
    ROWS, features=Features({"text": Value("string"), "label": ClassLabel(names=["low", "high"])})
)


def given(folder, rows, **task):
    sweep = {"name": "a", "output": str(folder), "model": {"name": "pocket"}, "methods": [{"type": "full"}]}
    sweep["data"] = {"train": "mine", "tasks": {"mine": task} if task else {}}
    return Sweep.model_validate(with_rows(sweep, {"mine": rows}))


@pytest.mark.parametrize(
    "rows",
    [pd.DataFrame(ROWS), NAMED, [dict(zip(ROWS, each, strict=True)) for each in zip(*ROWS.values(), strict=True)]],
    ids=["frame", "dataset", "list"],
)
def test_they_are_a_file_in_the_sweeps_folder(tmp_path, rows):
    sweep = given(tmp_path, rows, few_shot=1)
    assert sweep.data.tasks["mine"].source == f"{tmp_path}/a/data.given/mine.parquet"
    assert sweep.data.tasks["mine"].few_shot == 1
    found = load_task("mine", sweep.data)
    assert len(found.train) + len(found.validation) + len(found.test) == 20
    assert found.test[0].options == (("low", "high") if rows is NAMED else ("0", "1"))
    assert given(tmp_path, rows, few_shot=1) == sweep


def test_splits_stay_what_they_are(tmp_path):
    sweep = given(tmp_path, DatasetDict({"train": NAMED, "test": NAMED.select(range(3))}))
    assert len(load_task("mine", sweep.data).test) == 3


def test_what_are_no_rows_is_refused(tmp_path):
    given(tmp_path, pd.DataFrame(ROWS))
    with pytest.raises(ValueError, match="holds other rows than were given for task mine"):
        given(tmp_path, pd.DataFrame(ROWS).iloc[:5])
    with pytest.raises(ValueError, match="the rows of task mine are none"):
        given(tmp_path / "b", pd.DataFrame({"text": []}))
    with pytest.raises(ValueError, match=r"the rows of task mine cannot be used: .*; give a DataFrame"):
        given(tmp_path / "b", [1, 2])
    with pytest.raises(ValueError, match=r"data.tasks.mine has a source, and rows were given for it"):
        given(tmp_path / "b", pd.DataFrame(ROWS), source="x.csv")


def test_columns_that_only_later_rows_have_are_kept(tmp_path):
    rows = [{"instruction": f"Do {i}.", "output": "x", **({"input": "CONTEXT"} if i % 2 else {})} for i in range(20)]
    assert {one.input for one in load_task("mine", given(tmp_path, rows).data).train} == {"", "CONTEXT"}


def test_a_value_that_is_missing_is_the_same_the_next_time(tmp_path):
    for name, rows in (
        ("list", [{"text": f"{i}", "n": float("nan"), "label": "xy"[i % 2]} for i in range(20)]),
        ("frame", pd.DataFrame({"text": list("abcd"), "n": [float("nan")] * 4, "label": list("xyxy")})),
    ):
        assert given(tmp_path / name, rows) == given(tmp_path / name, rows)


def test_turns_and_their_tool_calls_stay_what_they_are(tmp_path):
    arguments = [{}, {"a": 1}, {"a": "x"}, {"b": None}]
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{i}?"},
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments[i % 4]}}]},
            ]
        }
        for i in range(40)
    ]
    sweep = given(tmp_path, rows)
    assert sweep == given(tmp_path, rows)
    found = {one.messages[1].more for one in load_task("mine", sweep.data).train}
    assert [json.loads(each)["tool_calls"][0]["function"]["arguments"] for each in sorted(found)] == sorted(
        arguments, key=json.dumps
    )
    with pytest.raises(ValueError, match=r"mine.jsonl holds other rows than were given for task mine"):
        given(tmp_path, rows[:30])
