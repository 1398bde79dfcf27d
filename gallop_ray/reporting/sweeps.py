"""The output of `gallop-ray list`: the sweeps of a folder, the latest first."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from gallop_ray.analysis.status import StatusReader
from gallop_ray.disk.bucket.address import address_of, copies, is_bucket, unquoted
from gallop_ray.disk.bucket.store import Bucket
from gallop_ray.disk.bucket.tree import SHARE_SECONDS, refresh
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.identity import since
from gallop_ray.records.stored import open_sweep
from gallop_ray.spec.metrics import shown_value, unit_of


def print_sweeps(output: str) -> None:
    """Print one line per sweep. Raises ValueError for a folder that does not exist or has none."""
    if is_bucket(output):
        places = _copied(output)
    elif (folder := Path(output).expanduser()).is_dir():
        places = list(folder.iterdir())
    else:
        raise ValueError(f"{folder} is no folder; give the folder of sweeps, which is `output` in a sweep file")
    found = [each for each in places if SweepFolder(each).exists()]
    if not found:
        raise ValueError(f"{output} holds no sweep; `gallop-ray run SWEEP.yaml` starts one")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in ("Sweep", "Begun", "State", "Runs", "Best", "Configuration"):
        table.add_column(heading, justify="right" if heading in ("Runs", "Best") else "left", overflow="fold")
    for path in sorted(found, key=_begun, reverse=True):
        table.add_row(*_cells(path))
    Console(markup=False).print(table)


def _copied(output: str) -> list[Path]:
    """Where the sweeps of a bucket are copied to: of each, for now, whether there is one and when it was begun."""
    root = copies(output, "view")
    found = [root / unquoted(name) for name in Bucket(output).folders(SHARE_SECONDS)]
    for path in found:
        refresh(path / "spec.json")
        refresh(path / "identity.json")
    return found


def _begun(path: Path) -> datetime:
    return since(SweepFolder(path)) or datetime.fromtimestamp((path / "spec.json").stat().st_mtime)


def _cells(path: Path) -> Iterator[str]:
    yield path.name
    yield f"{_begun(path):%Y-%m-%d %H:%M}"
    try:
        stored = open_sweep(address_of(path))  # of a bucket, it is brought here
        status = StatusReader(stored.folder, stored.sweep).look()
    except ValueError as error:
        yield f"cannot be read: {error}"
        return
    over = status.runs.total - status.runs.to_do - status.runs.running
    yield status.state
    yield f"{over}/{status.runs.total}"
    if status.best is not None and status.best.objective is not None:
        yield f"{shown_value(status.objective, status.best.objective)} {unit_of(status.objective)}"
        yield status.best.configuration
