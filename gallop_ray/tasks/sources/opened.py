"""The kinds of sources: files by path or glob, folders of files, saved datasets, the hub; each with its splits."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from gallop_ray.disk.bucket.inputs import brought
from gallop_ray.spec.basics import basics_name
from gallop_ray.spec.problems import did_you_mean, first_line
from gallop_ray.spec.tasks import SUFFIXES, TaskSpec, kind_of_file, stem_of_file
from gallop_ray.tasks.basics import basics_table
from gallop_ray.tasks.examples import SPLITS, Split
from gallop_ray.tasks.sources.files import dataset_table, file_table
from gallop_ray.tasks.sources.table import Table

ALL = "all"
"""The only split of a source that has none."""
_ALIASES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval"),
}
_NO_ROWS = ("readme", "license", "licence", "notice", "citation", "dataset_info", "dataset_infos", "metadata")
"""What lies beside the files of rows in many folders."""


@dataclass(frozen=True)
class Source:
    """The splits of a source by its own names, each with what reads it."""

    splits: Mapping[str, Callable[[], Table]]

    def named(self, split: Split) -> str | None:
        """What this source calls one of our splits; None where it has none such."""
        return next((name for name in _ALIASES[split] if name in self.splits), None)


def open_source(task: TaskSpec) -> Source:
    """The source of a task. Raises ValueError for one that is not there."""
    assert task.source is not None
    text = brought(task.source)
    path = Path(text)
    if (name := basics_name(text)) is not None:
        return Source({ALL: lambda: basics_table(name)})
    if path.is_dir():
        return _saved(path) if is_saved(path) else _folder(path)
    if path.is_file() or has_magic(text) or kind_of_file(text):
        return Source({name: _reader(files) for name, files in _by_split(matching(text)).items()})
    return _hub(task)


def is_saved(folder: Path) -> bool:
    """Whether it is what save_to_disk writes."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def matching(text: str) -> list[Path]:
    """The files of a path, a glob or an address, in the order of their names. Raises ValueError without any."""
    text = brought(text)
    path = Path(text)
    if path.is_file():
        return [path]
    found = [Path(each) for each in sorted(glob(text, recursive=True)) if Path(each).is_file()]
    if found:
        return found
    if has_magic(text):
        raise ValueError(f"no file matches {text}")
    near = [each.name for each in path.parent.glob("*")] if path.parent.is_dir() else []
    raise ValueError(f"there is no file {text}{did_you_mean(path.name, near)}")


def files_table(files: list[Path]) -> Table:
    """The rows of several files, one after the other."""
    tables = [file_table(each) for each in files]
    names = {column: each for table in tables for column, each in table.names.items()}
    return Table([row for table in tables for row in table.rows], names)


def _reader(files: list[Path]) -> Callable[[], Table]:
    return lambda: files_table(files)


def _by_split(files: list[Path]) -> dict[str, list[Path]]:
    """The files by the split that their names say; all together where none says one.

    Raises ValueError where some do: of the others nobody knows whether they may be trained on. And for a file that is
    there twice, of two kinds.
    """
    _refuse_twice(files)
    said = [_split_of(each) for each in files]
    if not any(said):
        return {ALL: files}
    if None in said:
        other, known = files[said.index(None)], next(file for file, split in zip(files, said, strict=True) if split)
        raise ValueError(
            f"{other}: the name says no split, and that of {known.name} does; give `splits: {{train: FILE, test: "
            "FILE}}`, files or globs, or take the file out"
        )
    found: dict[str, list[Path]] = {}
    for split, file in zip(said, files, strict=True):
        found.setdefault(str(split), []).append(file)
    return found if len(found) > 1 else {ALL: files}


def _refuse_twice(files: list[Path]) -> None:
    """Raises ValueError for two files whose names differ in their suffix alone: their rows would count twice."""
    seen: dict[Path, Path] = {}
    for file in files:
        if (same := seen.setdefault(file.parent / stem_of_file(file.name), file)) is not file:
            raise ValueError(f"{file} and {same.name} are one file of two kinds; take one out, or name one in `source`")


def _split_of(path: Path) -> Split | None:
    """The split that the name of a file says: the last of its words that names one, for a task's name comes first."""
    words = re.split(r"[._\-]+", stem_of_file(path.name).lower())
    named = {name: split for split in SPLITS for name in _ALIASES[split]}
    return next((named[word] for word in reversed(words) if word in named), None)


def _folder(folder: Path) -> Source:
    """A folder of files, whose names say their splits."""
    found = sorted(each for each in folder.iterdir() if each.is_file() and kind_of_file(each.name))
    files = [each for each in found if stem_of_file(each.name).lower() not in _NO_ROWS] or found
    if not files:
        raise ValueError(
            f"{folder} holds neither a dataset of save_to_disk nor a file that ends in {', '.join(SUFFIXES)}"
        )
    return Source({name: _reader(each) for name, each in _by_split(files).items()})


def _saved(folder: Path) -> Source:
    """A Dataset or a DatasetDict as save_to_disk writes it."""
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(str(folder))
    except Exception as error:  # whatever datasets raises of a folder that is not whole
        raise ValueError(f"{folder} cannot be read as a dataset of save_to_disk: {first_line(error)}") from error
    parts = dict(found) if isinstance(found, DatasetDict) else {ALL: found}
    return Source({str(name): _table(part, f"{folder}, {name}") for name, part in parts.items()})


def _table(dataset: Any, place: str) -> Callable[[], Table]:
    return lambda: dataset_table(dataset, place.removesuffix(f", {ALL}"))


def _hub(task: TaskSpec) -> Source:
    from datasets import DatasetDict, load_dataset

    name = str(task.source)
    try:
        found = load_dataset(name, task.config, revision=task.revision)
    except Exception as error:  # whatever the hub's libraries raise of a network, a name or a file
        raise ValueError(_unreachable(task, error)) from error
    assert isinstance(found, DatasetDict)
    return Source({str(split): _table(part, f"{name}, {split}") for split, part in found.items()})


def _unreachable(task: TaskSpec, error: Exception) -> str:
    """What is said of whatever the hub's libraries raise of a network, a name, a configuration or a file."""
    more = f", {task.config}" if task.config else ""
    return (
        f"{task.source}{more} is no file or folder, and cannot be loaded from the hub: {first_line(error)}. Check the "
        "path, the network, config and revision"
    )
