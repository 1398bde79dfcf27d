"""What to export and where to, checked before a heavy package is imported or anything is written."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from gallop_ray.disk.bucket.address import checked_address, is_bucket
from gallop_ray.disk.bucket.tree import present
from gallop_ray.disk.damage import Damaged
from gallop_ray.disk.tensors import DELTA, FULL, HYBRID, PEFT, metadata_of
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RoundFolder, RunFolder
from gallop_ray.records.stored import open_sweep
from gallop_ray.spec.data import ModelSpec

Target = Literal["delta", "peft", "lora", "merged"]
TARGETS: tuple[Target, ...] = get_args(Target)

_RUN = r"seed-\d+"
_SHORTEST = 5  # of an address up to a run: scheme, nothing, bucket, sweep, configuration
_POSSIBLE: dict[str, tuple[Target, ...]] = {
    DELTA: ("delta", "peft", "lora", "merged"),
    PEFT: ("peft", "merged"),
    FULL: ("merged",),
    HYBRID: ("merged",),
}
_WHY_NOT = {
    PEFT: "trained parameters of PEFT's own, which are not a delta of the base model's weights",
    FULL: "trained every weight, which is not an adapter",
    HYBRID: "trained two adapters at once, which no form but the merged model has",
}


@dataclass(frozen=True)
class Request:
    """An export that is possible: a finished run, a form that its adapter has, and a free place."""

    run: RunFolder
    to: Target
    output: Path
    """A folder that is empty or not there yet."""
    metadata: dict[str, str]
    """The metadata of the run's adapter; `format` is one of the formats above."""
    rank: int = 16
    """Of `lora`."""

    @property
    def model(self) -> ModelSpec:
        """The base model of the sweep that the run belongs to."""
        return _model(self.run)


def checked(run: str, to: Target, output: str | None, rank: int | None = None) -> Request:
    """The request, if it is possible. Raises ValueError that says what prevents it.

    `output` is a folder; None for <configuration>-seed-<n>-<to> in the working directory, with a round's task. `rank`
    is that of `lora`; None for 16.
    """
    if to not in TARGETS:  # argparse has refused it, Python has not
        raise ValueError(f"to is {' or '.join(TARGETS)}, not {to!r}")
    if rank is not None and (to != "lora" or rank < 1):
        raise ValueError("--rank is a positive number, and of --to lora alone")
    folder, metadata = checked_run(run)
    _refuse_impossible(folder, metadata["format"], to)
    _refuse_delta_in_base(folder, to)
    task = [folder.task] if isinstance(folder, RoundFolder) else []
    parts = [folder.configuration, f"seed-{folder.seed}", *task, to]
    target = free_folder(output or "-".join(parts))
    return Request(folder, to, target, metadata, rank or Request.rank)


def _model(run: RunFolder) -> ModelSpec:
    return ModelSpec.model_validate(SweepFolder(run.whole.path.parent.parent).spec()["model"])


def adapters(run: RunFolder) -> list[Path]:
    """What changes the base model, in this order: a sequence's stages up to this one, or the run's own adapter."""
    stages = _stages(run)
    if not stages:
        return [run.adapter]
    assert isinstance(run, RoundFolder)
    return [run.whole.round(task).adapter for task in stages[: stages.index(run.task) + 1]]


def _stages(run: RunFolder) -> list[str]:
    """The tasks that a run of a sequence learns one after another; of any other none."""
    if not isinstance(run, RoundFolder) and run.parts() == [run]:
        return []
    data = SweepFolder(run.whole.path.parent.parent).spec()["data"]
    return list(data["train"]) if data.get("sequence") else []


def _refuse_delta_in_base(run: RunFolder, to: Target) -> None:
    """PEFT loads the model that a folder names, and would put the adapter onto it without the delta."""
    if to in ("peft", "lora") and _model(run).delta is not None:
        what = f"{run.path} was trained on a base model that holds a delta (model.delta)"
        raise ValueError(f"{what}, which a folder for PEFT cannot name; use --to merged or --to delta")
    if to != "merged" and len(adapters(run)) > 1:
        raise ValueError(f"{run.path} was trained on what the stages before it have changed; use --to merged")


def free_folder(path: str) -> Path:
    """The whole path of a folder that is empty or not there yet. Raises ValueError for any other."""
    target = Path(path).expanduser().resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{target} exists and is not an empty folder; name another with --output, or remove it")
    return target


def checked_run(run: str) -> tuple[RunFolder, dict[str, str]]:
    """A finished run with its adapter's metadata. Raises ValueError that says what is missing."""
    folder = finished_run(run)
    return folder, _metadata(folder)


def finished_run(run: str) -> RunFolder:
    """A finished run, or a finished round of one. Raises ValueError that says what it is instead."""
    path = run_path(run)
    # `best` prints the path of the adapter.
    folder = _folder(path.parent if path == RunFolder(path.parent).adapter else path)
    _refuse_unfinished(folder)
    stages = _stages(folder)
    # What a sequence has trained is its last stage, on all before.
    return folder.round(stages[-1]) if stages and folder == folder.whole else folder


def run_path(run: str) -> Path:
    """The path of a run, or of another file; of a run in a bucket, where it can be read on this machine."""
    if not is_bucket(run):
        return Path(run).expanduser().resolve()
    parts = checked_address(run).split("/")
    at = next((place for place, part in enumerate(parts) if re.fullmatch(_RUN, part)), 0)
    if at < _SHORTEST:
        raise ValueError(f"{run} is no run; give <output>/<sweep>/<configuration>/seed-<n>")
    return open_sweep("/".join(parts[: at - 1])).folder.path.joinpath(*parts[at - 1 :])


def _folder(path: Path) -> RunFolder:
    return RoundFolder(path) if re.fullmatch(_RUN, path.parent.name) else RunFolder(path)


def _refuse_unfinished(run: RunFolder) -> None:
    if not run.path.is_dir():
        raise ValueError(f"{run.path} does not exist; give a run folder, <output>/<sweep>/<configuration>/seed-<n>")
    if not re.fullmatch(_RUN, run.whole.path.name) or run.read("spec") is None:
        raise ValueError(f"{run.path} is not a run folder; give <output>/<sweep>/<configuration>/seed-<n>")
    result = run.result()
    if result is None:
        raise ValueError(f"{run.path} has not finished; `gallop-ray run` with its sweep file resumes it")
    if not result.finished:
        reason = result.reason or "no reason recorded"
        raise ValueError(f"{run.path} {result.status} ({reason}); only a run that finished has an adapter")


def _metadata(run: RunFolder) -> dict[str, str]:
    if (parts := run.parts()) != [run]:
        rounds = ", ".join(str(part.path) for part in parts)
        raise ValueError(f"{run.path} has an adapter for each task that it was trained on; give one of {rounds}")
    if not present(run.adapter):
        raise ValueError(f"{run.adapter} is not there any more; restore it, or run the seed again")
    metadata = metadata_of(run.adapter)
    if metadata.get("format") not in _POSSIBLE:
        raise ValueError(
            f"{run.adapter} has the format {metadata.get('format')!r}; this version exports {', '.join(_POSSIBLE)}"
        )
    for name in ("base_hash", "configuration") if metadata["format"] in (PEFT, HYBRID) else ("base_hash",):
        if not metadata.get(name):
            raise Damaged(run.adapter, f"has no {name} in its metadata", "restore it, or run the seed again")
    return metadata


def _refuse_impossible(run: RunFolder, kind: str, to: Target) -> None:
    possible = _POSSIBLE[kind]
    if to not in possible:
        raise ValueError(f"{run.path} {_WHY_NOT[kind]}; use --to {' or --to '.join(possible)}")
