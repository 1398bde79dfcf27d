"""The files that code from outside this package is made of: its module's, and those of what that imports."""

import hashlib
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path

# Wherever it stands, in a function, too. A word too many finds no module, or one whose bytes do no harm in a hash.
_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+(\w+)|import[ \t]+([^#\n]+))", re.MULTILINE)


@cache
def code_hash(kind: type) -> str:
    """A hash of all code that a class of the user's depends on, which may change at any time.

    That is every file of the modules and packages of the class, of those that it derives from, and of what they import,
    Python's own modules and this package apart. Of an installed package that is only imported the version stands for
    its files. Cached: a process continues with the code that it has imported.
    """
    tops = dict.fromkeys(each.__module__.partition(".")[0] for each in kind.__mro__)
    digest = hashlib.sha256()
    for name, part in sorted(_parts([top for top in tops if not _is_known(top)])):
        digest.update(f"{name}:{len(part)}:".encode() + part)
    return digest.hexdigest()


def _parts(own: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    pending, seen = list(own), set[str]()
    while pending:
        top = pending.pop()
        if top in seen or _is_known(top):
            continue
        seen.add(top)
        files = module_files(top)
        if top not in own and files and is_installed(files[0]):
            yield top, _version(top).encode()
            continue
        for file in files:
            content = file.read_bytes()
            # Not the whole path: workers have a copy of the module in another folder.
            yield f"{top}/{'/'.join(file.parts[-2:])}" if len(files) > 1 else top, content
            if not is_installed(file):
                pending += imported(content.decode(errors="replace"))


def _version(top: str) -> str:
    """The version of the installed package that has this module."""
    return ",".join(f"{name} {version(name)}" for name in sorted({*packages_distributions().get(top, [])}))


def imported(code: str) -> list[str]:
    """The top-level names of the modules that this Python code imports, in its functions, too."""
    found = []
    for one, several in _IMPORT.findall(code):
        names = [one] if one else [each.split()[0] for each in several.split(",") if each.strip()]
        found += [name.partition(".")[0] for name in names if name[0] != "."]
    return found


def module_files(top: str) -> list[Path]:
    """The Python files of a top-level module or package, sorted; none where there is no such module."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # __main__ and the like have no place where they could be found
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return sorted(file for place in spec.submodule_search_locations for file in Path(place).rglob("*.py"))
    return [Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else []


def is_installed(file: Path) -> bool:
    """Whether a file lies where packages are installed."""
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(file.is_relative_to(place) for place in places)


def _is_known(top: str) -> bool:
    """Python's own modules and this package, whose versions count where they matter."""
    return top in sys.stdlib_module_names or top == __name__.partition(".")[0]
