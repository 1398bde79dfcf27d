"""Opens a sweep's folder: its spec as far as this version knows it, whatever version and packages wrote it."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gallop_ray.disk.bucket.address import is_bucket, placed
from gallop_ray.disk.bucket.tree import SHARE_SECONDS, tree_of
from gallop_ray.disk.damage import note_damage
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.own_metrics import use_metrics
from gallop_ray.records.source import completed
from gallop_ray.records.typed import VERSION, is_newer
from gallop_ray.spec.plugins import is_reference
from gallop_ray.spec.problems import Path as FieldPath
from gallop_ray.spec.problems import by_path, dotted, explain
from gallop_ray.spec.registry import STORED, method_types
from gallop_ray.spec.schema import Sweep


@dataclass(frozen=True)
class StoredSweep:
    """A sweep that was started, with its folder's present place.

    A method that is not known here keeps its name and options in `sweep`, so that its records can be read.
    `left_out`: what `sweep` lacks of spec.json.
    """

    folder: SweepFolder
    sweep: Sweep
    version: str
    left_out: tuple[str, ...]

    def whole(self) -> Sweep:
        """The sweep, to resume it. Raises ValueError where records have more than is known here."""
        if is_newer(self.version):
            raise ValueError(
                f"{self.folder.path} was written by a newer gallop_ray (version {self.version} of the records, here "
                f"{VERSION}); resume it with that one"
            )
        if self.left_out:
            raise ValueError(
                f"{self.folder.path} cannot be resumed here: its spec.json has {', '.join(self.left_out)}, which this "
                "version does not know; resume it with the gallop_ray that wrote it"
            )
        return self.sweep


def open_sweep(directory: str | Path) -> StoredSweep:
    """Open a sweep by its folder, or by its address in a bucket, to read it.

    Unknown parts of its spec are left out, and reported once. Raises ValueError for a folder that is not a sweep, and
    for a damaged spec.
    """
    if is_bucket(str(directory)):
        path, output = _copied(str(directory))
    else:
        path = Path(directory).expanduser().resolve()
        output = str(path.parent)
    if not path.is_dir():
        raise ValueError(f"{path} does not exist; give the folder of a sweep, <output>/<sweep name>")
    folder = SweepFolder(path)
    use_metrics(folder)
    version = folder.version()
    sweep, left_out = _as_far_as_known(folder.spec(), path / "spec.json", is_newer(version))
    _say(path / "spec.json", version, left_out, sweep)
    # The folder may have been moved or renamed since the spec was written.
    moved = sweep.model_copy(update={"output": output, "name": path.name})
    return StoredSweep(folder, completed(folder, moved), version, tuple(left_out))


def _copied(address: str) -> tuple[Path, str]:
    """Where a sweep of a bucket can be read on this machine, brought up to date, and its output's address."""
    path = placed(address, "view")
    tree = tree_of(path)
    assert tree is not None
    with tree.waiting(SHARE_SECONDS):
        tree.pull(path)
    if not (path / "spec.json").exists():
        raise ValueError(f"{address} is not a sweep: the bucket has no spec.json there. Give <output>/<sweep name>")
    return path, tree.address


def _say(path: Path, version: str, left_out: list[str], sweep: Sweep) -> None:
    if is_newer(version):
        reason = f"is of version {version} of the records, newer than {VERSION}"
        note_damage(path, reason, "what this version does not know is left out")
    if left_out:
        note_damage(path, f"has {', '.join(left_out)}, which this version does not know", "that is left out")
    known = method_types()
    for method in sweep.methods:
        if method.type not in known and not is_reference(method.type):
            missing = f"has a method {method.name} of the type {method.type}, which is not installed"
            note_damage(path, missing, "its runs can be read, but not made")


def _as_far_as_known(spec: dict[str, Any], path: Path, newer: bool) -> tuple[Sweep, list[str]]:
    """The sweep without unknown keys and, for a newer version, without unknown values."""
    data, left_out = deepcopy(spec), list[str]()
    while True:
        try:
            return Sweep.model_validate(data, context=STORED), left_out
        except ValidationError as error:
            found = by_path(error.errors(include_url=False), data)
        # From the end: removing an entry of a list shifts those behind it.
        for where, errors in reversed(found.items()):
            if where and (errors[0]["type"] == "extra_forbidden" or (newer and errors[0]["type"] != "missing")):
                left_out.append(dotted(where))
                _remove(data, where)
            else:
                wrong = f"{dotted(where)} {explain(errors, Sweep)}".strip()
                raise ValueError(f"{path} is not a sweep of this version: {wrong}")


def _remove(data: Any, where: FieldPath) -> None:
    for part in where[:-1]:
        data = data[part]
    del data[where[-1]]
