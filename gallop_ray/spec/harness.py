"""Names of lm-evaluation-harness' tasks, and the files that say what they are. Reads its folder, imports nothing of it.

Its own index parses thousands of files, which takes minutes; here one is looked for.
"""

import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from gallop_ray.spec.places import expanded
from gallop_ray.spec.problems import did_you_mean

EXTRA = "pip install 'gallop_ray[harness]'"
_SUFFIXES = (".yaml", ".yml")
_NAME = re.compile(rb"""^(task|group|class|include)[ ]*:[ ]*["']?([^"'#\r\n]*?)["']?[ ]*(?:#.*)?$""", re.MULTILINE)

_FUNCTION = re.compile(rb"""!function\s+["']?([\w.]+)\.\w+""")


def is_task_file(text: str) -> bool:
    """Whether a task is given by its file instead of its name."""
    return text.endswith(_SUFFIXES)


def harness_path(text: str) -> str:
    """A task's name as it is; a path with `~` and variables replaced."""
    return expanded(text) if is_task_file(text) else text


def task_path(name: str) -> Path:
    """The file of a task, given by its name or path. Raises ValueError, in one line, where there is none."""
    root = _root()
    if is_task_file(name):
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"there is no file {name}")
    else:
        path = _named(name, root)
    keys = _keys(path)
    if "group" in keys and "class" not in keys:
        raise ValueError(f"{name} is a group of tasks; name one task of it ({path})")
    if not keys.keys() & {"task", "class"}:
        raise ValueError(f"{path} names no task; give it a line `task: NAME`")
    return path


def task_files(path: Path) -> list[Path]:
    """A task's file, those of the functions that it names, and the file that it includes, and so on."""
    included = _keys(path).get("include")
    modules = {found.decode("utf-8", "replace") for found in _FUNCTION.findall(path.read_bytes())}
    functions = [file for name in sorted(modules) if (file := path.parent / f"{name}.py").is_file()]
    return [path, *functions, *(task_files(path.parent / included) if included else ())]


def _named(name: str, root: Path) -> Path:
    for path in root.glob(f"**/{name}.yaml") if re.fullmatch(r"[\w.+-]+", name) else ():
        if name in (_keys(path).get("task"), _keys(path).get("group")):
            return path
    if name not in (known := _all(root)):
        near = did_you_mean(name, list(known))
        raise ValueError(f"lm-evaluation-harness has no task {name} (tags are none){near}")
    return known[name]


def _root() -> Path:
    """The folder of its tasks. Raises ValueError where it is not installed."""
    found = find_spec("lm_eval")
    if found is None or found.origin is None:
        raise ValueError(f"lm-evaluation-harness is not installed; run: {EXTRA}")
    return Path(found.origin).parent / "tasks"


@cache
def _all(root: Path) -> dict[str, Path]:
    """Every task's file by its name, groups' too; of several the first in the order of their paths, as there."""
    return dict(reversed([*_tasks(root)]))


def _tasks(root: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(root.glob("**/*.yaml")):
        keys = _keys(path)
        if name := keys.get("group", keys.get("task")):
            yield name, path


def _keys(path: Path) -> dict[str, str]:
    """What kind of file it is: which of the keys it has on lines of their own."""
    return {key.decode(): value.decode(errors="replace") for key, value in _NAME.findall(path.read_bytes())}
