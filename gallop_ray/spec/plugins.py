"""Loads code from outside this package that a sweep file names: `module:Name`, and names from installed packages.

A module is searched next to the sweep file first, then on Python's path. Installed packages offer names through entry
points. Either is imported only when a sweep uses it.
"""

import importlib
import re
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from gallop_ray.spec.problems import did_you_mean, first_line

REFERENCE = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"
"""The form of `module:Name`, as a regular expression."""


def is_reference(text: str) -> bool:
    """Whether this is `module:Name`."""
    return re.fullmatch(REFERENCE, text) is not None


def look_in(folder: Path) -> None:
    """Search modules in this folder first from now on, as Python does in a script's folder."""
    place = str(folder.resolve())
    if sys.path[:1] != [place]:
        sys.path[:] = [place, *(each for each in sys.path if each != place)]
        importlib.invalidate_caches()  # Python caches folders' listings, and files may just have been copied there


def load_object(reference: str) -> Any:
    """The object that `module:Name` refers to. Raises ValueError, in one line, where it cannot be loaded."""
    module_name, _, name = reference.partition(":")
    module = _module(module_name)
    if not hasattr(module, name):
        known = [each for each in vars(module) if not each.startswith("_")]
        raise ValueError(f"module {module_name} ({module.__file__}) has no {name}{did_you_mean(name, known)}")
    return getattr(module, name)


def module_file(reference: str) -> Path | None:
    """The file of a reference's module, its folder where it is a package; None for one that is not on disk.

    Raises ValueError where it cannot be imported.
    """
    module = _module(reference.partition(":")[0].partition(".")[0])
    file = Path(module.__file__) if module.__file__ else None
    return file.parent if file and file.name == "__init__.py" else file


def _module(name: str) -> ModuleType:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ValueError(f"module {name} cannot be imported: {first_line(error)}") from error
        raise ValueError(
            f"there is no module {error.name}; put {error.name}.py beside the sweep file, or install its package"
        ) from None
    except Exception as error:  # whatever the user's own code raises
        raise ValueError(f"module {name} cannot be imported: {type(error).__name__}: {first_line(error)}") from error
    _refuse_other(name.partition(".")[0])
    return module


def _refuse_other(name: str) -> None:
    """Raise ValueError if the module is another one: Python imports a name once, and the file's may be taken."""
    first = Path(sys.path[0]) if sys.path else Path()
    beside = next((each for each in (first / f"{name}.py", first / name / "__init__.py") if each.is_file()), None)
    imported = getattr(sys.modules[name], "__file__", None)
    if beside is not None and (imported is None or Path(imported).resolve() != beside.resolve()):
        raise ValueError(f"{beside} cannot be used: another module {name} is imported ({imported}); rename the file")


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    """The entry points of installed packages in this group, by name."""
    return {each.name: each for each in entry_points(group=group)}


def load_installed(group: str, name: str) -> Any:
    """The object of a package's entry point. Raises ValueError, in one line, where it cannot be loaded."""
    found = installed(group)[name]
    try:
        return found.load()
    except Exception as error:  # whatever the package's code raises
        package = found.dist.name if found.dist else found.value
        raise ValueError(
            f"{name} of package {package} cannot be used: {type(error).__name__}: {first_line(error)}"
        ) from error
