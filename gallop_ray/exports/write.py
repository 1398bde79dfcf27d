"""Writes an export: the complete folder or nothing."""

import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gallop_ray.disk.damage import Damaged
from gallop_ray.disk.tensors import DELTA
from gallop_ray.disk.trouble import as_os_error
from gallop_ray.exports.asked import write_prompt
from gallop_ray.exports.peft_folder import write_lora, write_peft
from gallop_ray.exports.request import Request, Target, adapters
from gallop_ray.records.masks import read_mask
from gallop_ray.sparse.adapter import load_adapter, refuse_misfit
from gallop_ray.sparse.checked import load_whole
from gallop_ray.training.merged import merged
from gallop_ray.training.models import load_model
from gallop_ray.training.save import save_for_others

_FIX = "restore it, or run the seed again"


def export(request: Request) -> Path:
    """Write an export and return its folder. Raises ValueError where the adapter does not fit the form or the model."""
    _refuse_incomplete(request)
    with whole_or_nothing(request.output) as folder:
        _WRITERS[request.to](request, folder)
        write_prompt(request, folder, whole=request.to != "delta")
    return request.output


def _refuse_incomplete(request: Request) -> None:
    """Check the adapter against its checksums and, for a mask, against what the run recorded."""
    path = request.run.adapter
    if request.metadata["format"] != DELTA:
        load_whole(path)
        return
    found, _ = load_adapter(path)
    mask = read_mask(request.run)
    matrices = mask.matrices if mask else {}
    refuse_misfit(path, found, {_weight(name, found): numel for name, (_, numel) in matrices.items()} or _any(found))
    for name, (chosen, _) in matrices.items():
        weight = _weight(name, found)
        there = found[weight][0].numel() if weight in found else 0
        if there < chosen:
            raise Damaged(path, f"holds {there} of the {chosen} entries that were trained in {name}", _FIX)


def _weight(name: str, found: Collection[str]) -> str:
    """What an adapter calls a weight that mask.json knows by its module, or by itself if its name is another."""
    return name if name in found else f"{name}.weight"


def _any(found: Mapping[str, object]) -> dict[str, int]:
    """Unlimited sizes, for a run that recorded none."""
    return dict.fromkeys(found, sys.maxsize)


def _write_delta(request: Request, folder: Path) -> None:
    shutil.copyfile(request.run.adapter, folder / request.run.adapter.name)


def _write_merged(request: Request, folder: Path) -> None:
    """Weights and configuration, as transformers has them."""
    model, _ = load_model(request.model)
    save_for_others(merged(model, adapters(request.run)), folder)


_WRITERS: dict[Target, Callable[[Request, Path], None]] = {
    "delta": _write_delta,
    "peft": write_peft,
    "lora": write_lora,
    "merged": _write_merged,
}


@contextmanager
def whole_or_nothing(folder: Path) -> Iterator[Path]:
    """Context manager: the folder to write into, restored to what it was on failure. Its files' modes follow the umask.

    Errors of the storage, also inside a library, become an OSError that names the folder.

    Not a draft that is renamed: the folder may be a mount point, or the working directory of the user's shell.
    """
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
        _open_to_others(folder)
    except BaseException as error:
        for file in folder.iterdir():
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        if not existed:
            folder.rmdir()
        if isinstance(error, Exception) and (refused := as_os_error(error)) is not None and refused.errno is not None:
            raise OSError(refused.errno, os.strerror(refused.errno), str(folder)) from error
        raise


def _open_to_others(folder: Path) -> None:
    """Give files the modes that others have which are made here: safetensors renames private ones into place."""
    (like := folder / ".mode").touch()
    mode = like.stat().st_mode & 0o777
    like.unlink()
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)
