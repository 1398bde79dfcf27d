"""Writing an export: the whole folder or nothing."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gallop_ray.export.merged import write_merged
from gallop_ray.export.peft_folder import write_peft
from gallop_ray.export.request import Request, Target


def export(request: Request) -> Path:
    """Write what was asked for; the folder. ValueError where the adapter does not fit the form or the base model."""
    with _whole_or_nothing(request.output) as folder:
        _WRITERS[request.to](request, folder)
    return request.output


def _write_delta(request: Request, folder: Path) -> None:
    shutil.copyfile(request.run.adapter, folder / request.run.adapter.name)


_WRITERS: dict[Target, Callable[[Request, Path], None]] = {
    "delta": _write_delta,
    "peft": write_peft,
    "merged": write_merged,
}


@contextmanager
def _whole_or_nothing(folder: Path) -> Iterator[Path]:
    """The folder to write files into, as it was before where that fails.

    Not a draft that is renamed: the folder may be a mount point, or where the user's shell stands.
    """
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        for file in folder.iterdir():
            file.unlink()
        if not existed:
            folder.rmdir()
        raise
