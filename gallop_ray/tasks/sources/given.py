"""Rows from Python, written into the sweep's folder, where every node reads them and a later start finds them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    from datasets import DatasetDict

    if isinstance(rows, DatasetDict):
        for split, part in rows.items():
            _write(root / name / f"{split}.parquet", part, name)
        return root / name
    return _write(root / f"{name}.parquet", _dataset(rows, name), name)


def _dataset(rows: Any, name: str) -> Any:
    from datasets import Dataset

    if isinstance(rows, Dataset):
        return rows
    try:
        if hasattr(rows, "to_dict") and hasattr(rows, "columns"):
            return Dataset.from_pandas(rows, preserve_index=False)
        mappings = [dict(row) for row in rows]
        columns = dict.fromkeys(
            name for row in mappings for name in row
        )  # from_list takes those of the first row alone
        return Dataset.from_list([{name: row.get(name) for name in columns} for row in mappings])
    except Exception as error:  # whatever pandas, pyarrow and datasets raise of values without a type
        raise ValueError(
            f"the rows of task {name} cannot be used: {first_line(error)}; give a DataFrame, a "
            "Dataset or a list of dicts"
        ) from error


def _same(one: Any, other: Any) -> bool:
    """Whether two Arrow tables hold the same; a NaN is itself."""
    return bool(one.equals(other)) or repr(one.to_pylist()) == repr(other.to_pylist())


def _write(path: Path, dataset: Any, name: str) -> Path:
    import pyarrow.parquet as pq

    if not len(dataset):
        raise ValueError(f"the rows of task {name} are none")
    if path.exists():
        if not _same(pq.read_table(path), dataset.with_format("arrow")[:]):
            raise ValueError(
                f"{path} holds other rows than were given for task {name}; give those that the sweep was begun "
                "with, or another name to the sweep"
            )
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with drafted(path) as draft:
        dataset.to_parquet(draft)
    return path
