"""What this machine knows of the objects of its copies: in files beside them, for all of its processes."""

import os
import threading
from pathlib import Path
from typing import NamedTuple

_KEPT = ".kept"


class _Known(NamedTuple):
    """What was last sent or fetched of a file: the object's version, and the file then; none if it was not fetched."""

    tag: str
    file: tuple[int, int, int] | None


class Kept:
    """The versions of the objects below a root, as far as this machine has seen them."""

    def __init__(self, root: Path) -> None:
        self._root, self._folder = root, root / _KEPT

    def tag(self, path: Path) -> str | None:
        """The version of a file's object; None for no object."""
        found = self._read(path)
        return None if found is None else found.tag

    def note(self, path: Path, tag: str, here: bool) -> None:
        """The object has this version; here: and it is what lies here now."""
        side = self._side(path)
        side.parent.mkdir(parents=True, exist_ok=True)
        draft = side.with_name(f".{side.name}.{os.getpid()}.{threading.get_ident()}")
        draft.write_text(f"{tag}\n{' '.join(map(str, _file(path) or ())) if here else ''}")
        os.replace(draft, side)

    def forget(self, path: Path) -> None:
        """There is no such object any more."""
        self._side(path).unlink(missing_ok=True)

    def is_sent(self, path: Path, tag: str | None = None) -> bool:
        """Whether the object, of that version, is what lies here, or what was left there to be fetched later."""
        known = self._read(path)
        if known is None or (tag is not None and known.tag != tag):
            return False
        return known.file == _file(path)

    def below(self, folder: Path) -> list[Path]:
        """The files of all known objects below a folder, itself included."""
        side = self._side(folder)
        found = [each for each in side.rglob("*") if each.is_file() and not each.name.startswith(".")]
        return [self._root / each.relative_to(self._folder) for each in found]

    def _side(self, path: Path) -> Path:
        return self._folder / Path(os.path.abspath(path)).relative_to(self._root)

    def _read(self, path: Path) -> _Known | None:
        try:
            tag, _, rest = self._side(path).read_text().partition("\n")
            numbers = tuple(map(int, rest.split()))
        except (OSError, ValueError):
            return None
        return _Known(tag, numbers if len(numbers) == 3 else None)


def _file(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino
