"""Copies of what lies in a bucket: written there first and then here, read here after what has changed came over.

What is written once and whole goes to the bucket before it gets its name on this machine, so that no reader here sees
what the bucket lacks. What is appended, and what decides nothing, waits for the next such file of its folder, or for
`flush`. Workers send everything in `flush` alone, in the order in which it was written: data first, what refers to it
after.
"""

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from gallop_ray.disk.bucket.address import MARK, address_of, root_of
from gallop_ray.disk.bucket.store import Bucket, BucketAway, Stored

_KEPT = ".kept"
_TENSORS = ".safetensors"
_AT_ONCE = 16
SHARE_SECONDS = 20.0
"""How long something waits for the bucket that a later moment can make up for: other ranks wait meanwhile."""
LEASE = "lease.json"
_OF_THIS_MACHINE = ("base_progress.json", "libraries.log", "source.json", LEASE)
_SUMS = ".sums"
_ODD = re.compile(r"[^A-Za-z0-9._/+-]+")
_ESCAPED = re.compile(r"(?:=[0-9A-F]{2})+")


def quoted(path: str) -> str:
    """A path as a key: all but letters, digits and a few marks as `=` and the hexadecimal of each byte."""
    return _ODD.sub(lambda found: "".join(f"={byte:02X}" for byte in found[0].encode(errors="surrogateescape")), path)


def unquoted(key: str) -> str:
    """The path of a key."""
    return _ESCAPED.sub(lambda found: bytes.fromhex(found[0].replace("=", "")).decode(errors="surrogateescape"), key)


class _Kept(NamedTuple):
    """What was last sent or fetched of a file: the object's version, and the file then; none if it was not fetched."""

    tag: str
    file: tuple[int, int, int] | None


class Tree:
    """The copies below one root. For one process; files have one writer at a time, as on a disk that all share.

    held: whether everything waits for `flush`. guard: called before anything is sent, and raises if it must not be.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = address_of(root)
        self.bucket = Bucket(self.address)
        self.held = False
        self.guard: Callable[[], None] | None = None
        self._unsent: dict[Path, None] = {}  # in the order of writing; whether a file is there says what to do
        self._lock = threading.RLock()

    def key(self, path: Path) -> str:
        """The key of a path's object: the same text, unless it has characters that storages treat in different ways."""
        return quoted(self._below(path).as_posix())

    def _below(self, path: Path) -> Path:
        return Path(os.path.abspath(path)).relative_to(self.root)

    def sends(self, path: Path) -> bool:
        """Whether a file belongs into the bucket: all records do, but not what is of use on this machine alone."""
        parts = self._below(path).parts
        private = any(part.startswith(".") or part.endswith(_SUMS) for part in parts)
        mirrored = parts[-1] == "mlflow.json" and len(parts) > 2  # found again by the sweep's, which is sent
        return not (private or mirrored or parts[-1] in _OF_THIS_MACHINE or (len(parts) > 2 and parts[1] == "ray"))

    def before(self, path: Path, draft: Path, whole: bool) -> str | None:
        """A file is about to get its name: send it if it has to be there first. Returns the object's version."""
        if not whole or self.held or not self.sends(path):
            return None
        with self._lock:
            self._send_all(each for each in list(self._unsent) if each.parent == path.parent and each != path)
            self._unsent.pop(path, None)
            self._ask_guard()
            return self.bucket.put(self.key(path), draft)

    def wrote(self, path: Path, tag: str | None = None) -> None:
        """A file has been written or appended to here; tag: of the object that holds it already."""
        if not self.sends(path):
            return
        with self._lock:
            if tag is None:
                self._unsent.pop(path, None)
                self._unsent[path] = None
            else:
                self._note(path, tag, here=True)

    def removes(self, path: Path) -> None:
        """A file is about to be removed: remove its object first, if it has one."""
        if not self.sends(path):
            return
        with self._lock:
            self._unsent.pop(path, None)
            if self.kept(path) is None:
                return
            if self.held:
                self._unsent[path] = None
                return
            self._ask_guard()
            self.bucket.delete(self.key(path))
            self._forget(path)

    def flush(self, below: Path | None = None, patience: float | None = None) -> None:
        """Send everything that has been written by this process and not been sent, or what lies below a folder.

        Raises BucketTrouble.
        """
        with self._lock:
            found = [path for path in self._unsent if below is None or path.is_relative_to(below)]
            self._send_all(found, patience)

    def share(self) -> None:
        """Send now, if the bucket answers soon; else a later moment does."""
        try:
            self.flush(patience=SHARE_SECONDS)
        except BucketAway:
            return

    def push(self, folder: Path) -> None:
        """Make a folder, or a file, in the bucket that of this machine, which was written without these functions."""
        with self._lock:
            here = {path for path in (folder, *folder.rglob("*")) if path.is_file() and self.sends(path)}
            for path in sorted(here | set(self._known(folder))):
                if path not in here or not self._is_sent(path):
                    self._unsent[path] = None
            self._send_all(path for path in list(self._unsent) if path.is_relative_to(folder))

    def pull(self, folder: Path, tensors: bool = False) -> None:
        """Make a folder here that of the bucket, which wins over what was written here and not sent.

        For who alone writes there now. tensors: also fetch tensor files, which otherwise come when they are opened.
        """
        with self._lock:
            # Before the bucket is asked: what comes later was sent before it got its name here.
            here = {path for path in folder.rglob("*") if path.is_file() and self.sends(path)}
            here.update(self._known(folder))
            there = self._objects(folder)
            for path in here - there.keys():
                path.unlink(missing_ok=True)
                self._forget(path)
            for path in [path for path in self._unsent if path.is_relative_to(folder)]:
                del self._unsent[path]
            self._bring(
                {path: stored for path, stored in there.items() if not self._is_sent(path, stored.tag)}, tensors
            )
            if tensors:
                self._fetch_all(path for path in there if not path.exists())

    def fill(self, folder: Path, of: Callable[[Path], bool]) -> None:
        """Fetch what is missing here, or old, and leave what was written here: others of this machine may do so now.

        of: which files.
        """
        with self._lock:
            there = {path: stored for path, stored in self._objects(folder).items() if of(path)}
            old = {path: stored for path, stored in there.items() if not self._is_sent(path, stored.tag)}
            self._bring({path: stored for path, stored in old.items() if not path.exists() or self._is_sent(path)})

    def _objects(self, folder: Path) -> dict[Path, Stored]:
        prefix = self.key(folder)
        objects = self.bucket.list("" if prefix == "." else f"{prefix}/")
        found = {self.root / unquoted(key): stored for key, stored in objects.items()}
        return {path: stored for path, stored in found.items() if self.sends(path)}

    def _bring(self, stale: Mapping[Path, Stored], tensors: bool = False) -> None:
        later = [path for path in stale if path.suffix == _TENSORS and not tensors]
        for path in later:
            path.unlink(missing_ok=True)
            self._note(path, stale[path].tag, here=False)
        self._fetch_all(path for path in stale if path not in later)

    def _fetch_all(self, paths: Iterable[Path]) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._fetch, paths))

    @contextmanager
    def waiting(self, seconds: float) -> Iterator[None]:
        """Context manager: requests in here wait for the bucket so long at most, then raise BucketAway."""
        before, self.bucket.patience = self.bucket.patience, seconds
        try:
            yield
        finally:
            self.bucket.patience = before

    def refresh(self, path: Path, patience: float | None = None) -> None:
        """Make one file here that of the bucket."""
        with self._lock:
            stored = self.bucket.head(self.key(path), patience)
            if stored is None:
                path.unlink(missing_ok=True)
                self._forget(path)
            elif not self._is_sent(path, stored.tag) or not path.exists():
                self._fetch(path, patience)

    def exchange(self, path: Path, data: bytes) -> bool:
        """Replace a file that `refresh` has just brought, unless another process was faster. Whether it has."""
        with self._lock:
            tag = self.kept(path)
            key = self.key(path)
            new = self.bucket.create(key, data) if tag is None else self.bucket.swap(key, data, tag)
            if new is not None:
                self.refresh(path)
            return new is not None

    def present(self, path: Path) -> bool:
        """Whether a file is here, fetched now if the bucket is known to have it."""
        if not path.exists() and self.sends(path) and self.kept(path) is not None:
            self._fetch(path)
        return path.exists()

    def kept(self, path: Path) -> str | None:
        """The version of a file's object, as far as this machine has seen; None for no object."""
        found = self._read(path)
        return None if found is None else found.tag

    # -- what is known of files, beside them for all processes of this machine

    def _send_all(self, paths: Iterable[Path], patience: float | None = None) -> None:
        for path in paths:
            self._ask_guard()
            if path.exists():
                self._note(path, self.bucket.put(self.key(path), path, patience), here=True)
            else:
                self.bucket.delete(self.key(path), patience)
                self._forget(path)
            self._unsent.pop(path, None)

    def _ask_guard(self) -> None:
        if self.guard is not None:
            self.guard()

    def _fetch(self, path: Path, patience: float | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            stored = self.bucket.fetch(self.key(path), draft, patience)
            if stored is None:
                path.unlink(missing_ok=True)
                self._forget(path)
                return
            os.replace(draft, path)
            self._note(path, stored.tag, here=True)
        finally:
            draft.unlink(missing_ok=True)

    def _side(self, path: Path) -> Path:
        return self.root / _KEPT / self._below(path)

    def _read(self, path: Path) -> _Kept | None:
        try:
            tag, _, rest = self._side(path).read_text().partition("\n")
            numbers = tuple(map(int, rest.split()))
        except (OSError, ValueError):
            return None
        return _Kept(tag, numbers if len(numbers) == 3 else None)

    def _note(self, path: Path, tag: str, here: bool) -> None:
        side = self._side(path)
        side.parent.mkdir(parents=True, exist_ok=True)
        draft = side.with_name(f".{side.name}.{os.getpid()}.{threading.get_ident()}")
        draft.write_text(f"{tag}\n{' '.join(map(str, _file(path) or ())) if here else ''}")
        os.replace(draft, side)

    def _forget(self, path: Path) -> None:
        self._side(path).unlink(missing_ok=True)

    def _is_sent(self, path: Path, tag: str | None = None) -> bool:
        """Whether the object, of that version, is what lies here, or what was left there to be fetched later."""
        kept = self._read(path)
        if kept is None or (tag is not None and kept.tag != tag):
            return False
        return kept.file == _file(path)

    def _known(self, folder: Path) -> list[Path]:
        side = self._side(folder) if folder != self.root else self.root / _KEPT
        found = [each for each in side.rglob("*") if each.is_file() and not each.name.startswith(".")]
        return [self.root / each.relative_to(self.root / _KEPT) for each in found]


def _file(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


@cache
def _tree(root: Path, process: int) -> Tree:
    return Tree(root)


def tree_of(path: Path) -> Tree | None:
    """The tree that a path belongs to; None where it is of no bucket."""
    root = root_of(path)
    return None if root is None else _tree(root, os.getpid())  # a forked process shares no connections


def present(path: Path) -> bool:
    """Whether a file is there; one that lies in the bucket only is fetched."""
    if path.exists():
        return True
    tree = tree_of(path)
    return tree is not None and path.name != MARK and tree.present(path)


def is_there(path: Path) -> bool:
    """Whether a file is there, on this machine or, as far as it has seen, in the bucket. Nothing is fetched."""
    tree = tree_of(path)
    return path.exists() or (tree is not None and tree.kept(path) is not None)


def stamp(path: Path) -> str | None:
    """A value that changes with every version of a file, wherever it was written; None without one."""
    tree = tree_of(path)
    if tree is not None and (kept := tree.kept(path)) is not None:
        return kept
    return str(path.stat().st_mtime_ns) if path.exists() else None


def share(path: Path) -> None:
    """Send what this process has written around a path, if it lies in a bucket that answers soon."""
    if (tree := tree_of(path)) is not None:
        tree.share()


def flush(folder: Path) -> None:
    """Send what this process has written below a folder, if that lies in a bucket; waits for it."""
    if (tree := tree_of(folder)) is not None:
        tree.flush(folder)


def push(folder: Path) -> None:
    """Send what has been written in a folder by other means than ours, if it lies in a bucket."""
    if (tree := tree_of(folder)) is not None:
        tree.push(folder)


def pull(folder: Path, tensors: bool = False) -> None:
    """Bring a folder up to date, if it lies in a bucket; see Tree.pull."""
    if (tree := tree_of(folder)) is not None:
        tree.pull(folder, tensors)


def refresh(path: Path) -> None:
    """Bring one file up to date, if it lies in a bucket that answers soon."""
    if (tree := tree_of(path)) is not None:
        with suppress(BucketAway):
            tree.refresh(path, SHARE_SECONDS)
