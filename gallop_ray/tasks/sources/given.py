"""Rows from Python, written into the sweep's folder, where every node reads them and a later start finds them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gallop_ray.disk.bucket.address import is_bucket
from gallop_ray.disk.whole import drafted
from gallop_ray.spec.problems import first_line
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.tasks import TaskName

_FOLDER = "data.given"  # with a dot, as no configuration's folder has


def with_rows(sweep: Sweep | Mapping[str, Any], data: Mapping[TaskName, Any]) -> dict[str, Any]:
    """What a sweep file would hold, with these rows as the sources of its tasks of these names.

    Raises ValueError for what are no rows, and for others than those with which the sweep was begun.
    """
    content = sweep.model_dump(mode="json") if isinstance(sweep, Sweep) else dict(sweep)
    section = dict(content.get("data") or {})
    tasks = dict(section.get("tasks") or {})
    if is_bucket(str(content.get("output", ""))):
        raise ValueError("rows from Python are kept in output, which is a bucket here; write them to files")
    root = (
        Path(content.get("output", Sweep.model_fields["output"].default)).expanduser() / str(content["name"]) / _FOLDER
    )
    for name, rows in data.items():
        given = tasks.get(name) or {}
        if isinstance(given, str) or given.get("source"):
            raise ValueError(f"data.tasks.{name} has a source, and rows were given for it; leave one of them out")
        tasks[name] = {**given, "source": str(_written(root.absolute(), name, rows))}
    return {**content, "data": {**section, "tasks": tasks}}


def _written(root: Path, name: str, rows: Any) -> Path:
    """The file of a task, or its folder where the rows have splits."""
    from datasets import Dataset, DatasetDict

    if isinstance(rows, DatasetDict):
        for split, part in rows.items():
            _write(root / name / f"{split}.parquet", part, name)
        return root / name
    if isinstance(rows, Dataset):
        return _write(root / f"{name}.parquet", rows, name)
    frame = hasattr(rows, "to_dict") and hasattr(rows, "columns")
    try:
        mappings = [] if frame else [dict(row) for row in rows]
        if any(map(_has_mappings, mappings)):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in mappings).encode()
            return _write_lines(root / f"{name}.jsonl", content, name)
        table = Dataset.from_pandas(rows, preserve_index=False) if frame else _of_mappings(mappings)
    except OtherRows:
        raise
    except Exception as error:  # whatever pandas, pyarrow, json and datasets raise of values that they do not take
        raise ValueError(
            f"the rows of task {name} cannot be used: {first_line(error)}; give a DataFrame, a "
            "Dataset or a list of dicts"
        ) from error
    return _write(root / f"{name}.parquet", table, name)


def _of_mappings(rows: list[dict[str, Any]]) -> Any:
    """A Dataset with all columns that any row has; `from_list` takes those of the first row alone."""
    from datasets import Dataset

    columns = dict.fromkeys(column for row in rows for column in row)
    return Dataset.from_list([{column: _cell(row.get(column)) for column in columns} for row in rows])


def _cell(value: Any) -> Any:
    """A value among others of its column: a NaN among texts is one that is missing."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _has_mappings(row: dict[str, Any]) -> bool:
    """Whether a row has mappings in a list, as turns and tools are: Arrow would give all of them the same keys."""
    lists = [value for value in row.values() if isinstance(value, list | tuple)]
    return any(isinstance(each, dict) for value in lists for each in value)


class OtherRows(ValueError):
    """Others than those with which a sweep was begun."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(
            f"{path} holds other rows than were given for task {name}; give those that the sweep was begun with, or "
            "another name to the sweep"
        )


def _write_lines(path: Path, content: bytes, name: str) -> Path:
    if path.exists():
        if path.read_bytes() != content:
            raise OtherRows(path, name)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with drafted(path) as draft:
        draft.write_bytes(content)
    return path


def _same(one: Any, other: Any) -> bool:
    """Whether two Arrow tables hold the same; a NaN is itself."""
    return bool(one.equals(other)) or repr(one.to_pylist()) == repr(other.to_pylist())


def _write(path: Path, dataset: Any, name: str) -> Path:
    import pyarrow.parquet as pq

    if not len(dataset):
        raise ValueError(f"the rows of task {name} are none")
    if path.exists():
        if not _same(pq.read_table(path), dataset.with_format("arrow")[:]):
            raise OtherRows(path, name)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with drafted(path) as draft:
        dataset.to_parquet(draft)
    return path
