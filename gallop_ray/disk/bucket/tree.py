"""Copies of what lies in a bucket: written there first and then here, read here after what has changed came over.

What is written once and whole goes to the bucket before it gets its name on this machine, so that no reader here sees
what the bucket lacks. What is appended, and what decides nothing, waits for the next such file of its folder, or for
`flush`. Workers send everything in `flush` alone, in the order in which it was written: data first, what refers to it
after. Between two that decide something, all goes at the same time: a request takes as long as the way to the bucket.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path

from gallop_ray.disk.bucket.address import MARK, address_of, quoted, root_of, unquoted
from gallop_ray.disk.bucket.errors import BucketAway
from gallop_ray.disk.bucket.kept import Kept
from gallop_ray.disk.bucket.reach import at_once
from gallop_ray.disk.bucket.store import Bucket, Stored
from gallop_ray.disk.locks import locked

_TENSORS = ".safetensors"
_AT_ONCE = 16
SHARE_SECONDS = 20.0
"""How long something waits for the bucket that a later moment can make up for: other ranks wait meanwhile."""
LEASE = "lease.json"
_OF_THIS_MACHINE = ("base_progress.json", "libraries.log", "source.json", LEASE)
_SUMS = ".sums"
_LOCK = ".lock"


class Tree:
    """The copies below one root. For one process; files have one writer at a time, as on a disk that all share.

    held: whether everything waits for `flush`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = address_of(root)
        self.bucket = Bucket(self.address)
        self.held = False
        self._kept = Kept(root)
        # In the order of writing; whether a file is there says what to do. True: it refers to what was written before.
        self._unsent: dict[Path, bool] = {}
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
            return self.bucket.put(self.key(path), draft)

    def wrote(self, path: Path, tag: str | None = None, whole: bool = False) -> None:
        """A file has been written or appended to here; tag: of the object that holds it already; whole: as `before`."""
        if not self.sends(path):
            return
        with self._lock:
            if tag is None:
                self._unsent.pop(path, None)
                self._unsent[path] = whole and path.suffix != _TENSORS
            else:
                self._kept.note(path, tag, here=True)

    def removes(self, path: Path) -> None:
        """A file is about to be removed: remove its object first, if it has one."""
        if not self.sends(path):
            return
        with self._lock:
            self._unsent.pop(path, None)
            if self._kept.tag(path) is None:
                return
            if self.held:
                self._unsent[path] = False
                return
            self.bucket.delete(self.key(path))
            self._kept.forget(path)

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
            for path in sorted(here | set(self._kept.below(folder))):
                if path not in here or not self._kept.is_sent(path):
                    self._unsent[path] = False
            self._send_all(path for path in list(self._unsent) if path.is_relative_to(folder))

    def pull(self, folder: Path, tensors: bool = False, of: Callable[[Path], bool] = lambda path: True) -> None:
        """Make a folder here that of the bucket, which wins over what was written here and not sent.

        For who alone writes there now. tensors: also fetch tensor files, which otherwise come when they are opened.
        of: which files.
        """
        with self.alone():
            # Before the bucket is asked: what comes later was sent before it got its name here.
            here = {path for path in folder.rglob("*") if path.is_file() and self.sends(path)}
            here.update(self._kept.below(folder))
            there = {path: stored for path, stored in self._objects(folder).items() if of(path)}
            for path in filter(of, here - there.keys()):
                path.unlink(missing_ok=True)
                self._kept.forget(path)
            for path in [path for path in self._unsent if path.is_relative_to(folder) and of(path)]:
                del self._unsent[path]
            self._bring(
                {path: stored for path, stored in there.items() if not self._kept.is_sent(path, stored.tag)}, tensors
            )
            if tensors:
                self._fetch_all(path for path in there if not path.exists())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Context manager: nothing is pulled meanwhile. Commands in several terminals share what they view."""
        with self._lock, locked(self.root / _LOCK) if self.root.name == "view" else nullcontext():
            yield

    def drop_tensors(self, folder: Path) -> None:
        """Remove tensor files below a folder here that the bucket has: they are fetched again where they are opened."""
        with self._lock:
            for path in folder.rglob(f"*{_TENSORS}"):
                if path.is_file() and self.sends(path) and self._kept.is_sent(path):
                    tag = self._kept.tag(path)
                    path.unlink(missing_ok=True)
                    self._kept.note(path, str(tag), here=False)

    def _objects(self, folder: Path) -> dict[Path, Stored]:
        prefix = self.key(folder)
        objects = self.bucket.list("" if prefix == "." else f"{prefix}/")
        found = {self.root / unquoted(key): stored for key, stored in objects.items()}
        return {path: stored for path, stored in found.items() if self.sends(path)}

    def _bring(self, stale: Mapping[Path, Stored], tensors: bool = False) -> None:
        later = [path for path in stale if path.suffix == _TENSORS and not tensors]
        for path in later:
            path.unlink(missing_ok=True)
            self._kept.note(path, stale[path].tag, here=False)
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
                self._kept.forget(path)
            elif not self._kept.is_sent(path, stored.tag) or not path.exists():
                self._fetch(path, patience)

    def exchange(self, path: Path, data: bytes) -> bool:
        """Replace a file that `refresh` has just brought, unless another process was faster. Whether it has."""
        with self._lock:
            tag = self._kept.tag(path)
            key = self.key(path)
            new = self.bucket.create(key, data) if tag is None else self.bucket.swap(key, data, tag)
            if new is not None:
                self.refresh(path)
            return new is not None

    def present(self, path: Path) -> bool:
        """Whether a file is here, fetched now if the bucket is known to have it."""
        if not path.exists() and self.sends(path) and self._kept.tag(path) is not None:
            self._fetch(path)
        return path.exists()

    def kept(self, path: Path) -> str | None:
        """The version of a file's object, as far as this machine has seen; None for no object."""
        return self._kept.tag(path)

    def _send_all(self, paths: Iterable[Path], patience: float | None = None) -> None:
        for wave in self._waves(paths):
            self.bucket.ask(patience)
            at_once([partial(self._send, path, patience) for path in wave])

    def _waves(self, paths: Iterable[Path]) -> Iterator[list[Path]]:
        """What may be sent at the same time: up to what refers to something before it, or what is to be removed."""
        wave: list[Path] = []
        for path in paths:
            if wave and (self._unsent[path] or len(wave) == _AT_ONCE or path.exists() != wave[-1].exists()):
                yield wave
                wave = []
            wave.append(path)
        if wave:
            yield wave

    def _send(self, path: Path, patience: float | None) -> None:
        """The guard has been asked."""
        if path.exists():
            self._kept.note(path, self.bucket.put(self.key(path), path, patience, asked=True), here=True)
        else:
            self.bucket.delete(self.key(path), patience, asked=True)
            self._kept.forget(path)
        self._unsent.pop(path, None)

    def _fetch(self, path: Path, patience: float | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            stored = self.bucket.fetch(self.key(path), draft, patience)
            if stored is None:
                if not path.is_dir():  # the object of another tool's folder has no such key
                    path.unlink(missing_ok=True)
                self._kept.forget(path)
                return
            os.replace(draft, path)
            self._kept.note(path, stored.tag, here=True)
        finally:
            draft.unlink(missing_ok=True)


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


def alone(folder: Path) -> AbstractContextManager[None]:
    """Context manager: what is written here by other means than ours is not taken for old copies before `push`."""
    tree = tree_of(folder)
    return nullcontext() if tree is None else tree.alone()


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
