"""Copies of the user's own code in the sweep's folder, where every node sees them and the results keep them."""

import filecmp
import shutil
import sysconfig
from pathlib import Path

from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.plugins import look_in, module_file
from gallop_ray.spec.references import references
from gallop_ray.spec.schema import Sweep

_FOLDER = "code"


def keep_code(folder: SweepFolder, sweep: Sweep) -> list[str]:
    """Copy the modules that a sweep names by `module:Name`. Returns a line about each that has changed.

    Installed modules are not copied: every node has its own packages.
    """
    said = []
    for source in dict.fromkeys(filter(None, map(module_file, references(sweep)))):
        kept = folder.path / _FOLDER / source.name
        if _is_installed(source) or kept == source:
            continue
        if kept.exists() and not _same(source, kept):
            said.append(f"{source.name} has changed since it was last used here; earlier results used the old code")
        if kept.is_dir():
            shutil.rmtree(kept)
        kept.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, kept, ignore=_no_code)
        else:
            shutil.copyfile(source, kept)
    return said


def use_code(folder: SweepFolder) -> None:
    """Import modules from the sweep's folder first, if it has some."""
    if (folder.path / _FOLDER).is_dir():
        look_in(folder.path / _FOLDER)


def _is_installed(file: Path) -> bool:
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(file.is_relative_to(place) for place in places)


def _no_code(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(".py") and not (Path(folder) / name).is_dir()]


def _same(one: Path, other: Path) -> bool:
    if one.is_file() and other.is_file():
        return filecmp.cmp(one, other, shallow=False)
    if not one.is_dir() or not other.is_dir():
        return False
    files = {path.relative_to(place) for place in (one, other) for path in place.rglob("*.py")}
    return (
        all((place / name).is_file() for place in (one, other) for name in files)
        and not (filecmp.cmpfiles(one, other, [str(name) for name in files], shallow=False)[1])
    )
