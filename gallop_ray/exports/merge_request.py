"""Which adapters to merge and how, checked before a heavy package is imported or anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from gallop_ray.disk.tensors import DELTA, adapter_file, metadata_of
from gallop_ray.exports.request import Request, checked_run, free_folder, run_path
from gallop_ray.records.run_folder import RunFolder

How = Literal["sum", "ties", "dare"]
HOWS: tuple[How, ...] = get_args(How)
_KEPT: dict[How, float] = {"sum": 1.0, "ties": 1.0, "dare": 0.5}


@dataclass(frozen=True)
class MergeRequest:
    """Adapters of one base model, and a free place for what comes of them."""

    adapters: list[Path]
    how: How
    keep: float
    """Share of each adapter's entries that takes part."""
    seed: int
    output: Path
    like: Request | None
    """The run whose base model is merged into, and whose prompt asks the result; None for the adapter alone."""
    metadata: dict[str, str]
    """What the adapters say of their base model."""


def checked_merge(
    runs: Sequence[str], how: How, keep: float | None, seed: int, to: Literal["delta", "merged"], output: str
) -> MergeRequest:
    """The request, if it is possible. Raises ValueError that says what prevents it."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed {seed} is not allowed; must be 0 to 2^63 - 1")
    if len(runs) < 2:
        raise ValueError("a merge takes two runs at least")
    if keep is not None and (how == "sum" or not 0 < keep <= 1):
        raise ValueError("--keep is a share above 0 and up to 1, and of --how ties or dare")
    adapters = [_adapter(run) for run in runs]
    if twice := next((path for i, (path, _) in enumerate(adapters) if path in [p for p, _ in adapters[:i]]), None):
        raise ValueError(f"{twice} is named twice")
    found = [metadata_of(path) for path, _ in adapters]
    for (path, _), metadata in zip(adapters, found, strict=True):
        if metadata.get("format") != DELTA:
            raise ValueError(f"{path} is no sparse adapter; export --to merged is the way for other methods")
        for key in ("base_hash", "base_settings"):
            if metadata.get(key) != found[0].get(key):
                raise ValueError(f"{path} was trained on another base model than {adapters[0][0]} ({key} differs)")
    run = next((run for _, run in adapters if run is not None), None)
    if to == "merged" and run is None:
        raise ValueError("--to merged needs the base model, which only a run folder names; give one, or use --to delta")
    kept = _KEPT[how] if keep is None else keep
    of_base: dict[str, str] = {
        key: found[0][key] for key in ("base_hash", "base_settings", "base_model") if key in found[0]
    }
    target = free_folder(output)
    like = Request(run, "merged", target, of_base) if run is not None and to == "merged" else None
    return MergeRequest([path for path, _ in adapters], how, kept, seed, target, like, of_base)


def _adapter(run: str) -> tuple[Path, RunFolder | None]:
    """An adapter's file, and whose run's it is."""
    path = run_path(run)
    if path.is_file():
        return path, None
    if not adapter_file(path).is_file() or (path / "spec.json").exists():
        folder, _ = checked_run(run)
        return folder.adapter, folder
    return adapter_file(path), None
