"""Which entries each method has chosen: where in the model, and how much masks overlap."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import numpy as np

from gallop_ray.analysis.ranking import best
from gallop_ray.disk.damage import Damaged, note_damage
from gallop_ray.disk.tensors import metadata_of, opened
from gallop_ray.records.files import Record
from gallop_ray.records.folders import MASK_REPORT, SweepFolder
from gallop_ray.records.masks import MaskRecord, read_mask
from gallop_ray.records.run_folder import RoundFolder, RunFolder
from gallop_ray.records.typed import StoredRecord, note_unread, write_record
from gallop_ray.spec.search import ObjectiveSpec

OUTSIDE = "other"
"""The row for matrices that belong to no layer."""
_INDICES = ".indices"


class _MaskedRun(StoredRecord):
    """One of the `runs`."""

    configuration: str
    seed: int
    round: str | None = None


class MaskReport(StoredRecord):
    """masks.json."""

    runs: list[_MaskedRun] = []
    overlap: dict[str, list[dict[str, Any]]] = {}


def write_mask_report(folder: SweepFolder, objective: ObjectiveSpec) -> None:
    """Write masks.json and masks.png into the sweep's folder, unless they are of exactly these runs already.

    masks.json: `runs`, each with its density by layer and module type (a matrix of shares in [0, 1], null where the
    model has no such matrix) and, where recorded, its magnitudes; `overlap.seeds`, the Jaccard index of the masks of
    each pair of seeds of a configuration; `overlap.methods`, that of each pair of methods at the same seed, each method
    by its best configuration. A sweep without masks gets neither file.
    """
    report, picture = (folder.path / name for name in MASK_REPORT)
    masks = list(_masks(folder))
    runs = [run for run, _ in masks]
    if not runs or (picture.exists() and _told_of(report) == [_identity(run) for run in runs]):
        return
    from gallop_ray.reporting.mask_plot import draw_masks

    picture.unlink(missing_ok=True)
    masked = {run.configuration for run in runs}
    found = best(folder.results(), objective)
    chosen = {each.configuration: each.method for each in found if each.configuration in masked}
    told = [described(run, mask) for run, mask in masks]
    overlap = {"seeds": list(_between_seeds(runs)), "methods": list(_between_methods(runs, chosen))}
    write_record(report, {"runs": told, "overlap": overlap})
    draw_masks([run for run in told if run["configuration"] in chosen], picture)


def _identity(run: RunFolder) -> list[Any]:
    return [run.configuration, run.seed, _round(run).get("round")]


def _told_of(report: Path) -> list[list[Any]]:
    """Configuration and seed of the runs in masks.json, and the round of those that have rounds."""
    return [[run.configuration, run.seed, run.round] for run in mask_report(report).runs]


def mask_report(path: Path) -> MaskReport:
    """masks.json, which is derived; empty where it is missing or unreadable."""
    try:
        return MaskReport.read(path) or MaskReport()
    except Damaged as error:
        note_unread(error, "the next report on masks replaces it")
        return MaskReport()


def _masks(folder: SweepFolder) -> Iterator[tuple[RunFolder, MaskRecord]]:
    """The finished runs with a mask, or each of their rounds, with their mask.json."""
    for run in folder.runs():
        for part in run.parts() if (result := run.result()) and result.finished else ():
            if mask := read_mask(part):
                yield part, mask


def _round(run: RunFolder) -> Record:
    """The task of a round; empty for a run without rounds."""
    return {"round": run.task} if isinstance(run, RoundFolder) else {}


def described(run: RunFolder, mask: MaskRecord) -> Record:
    """A finished run's mask as an element of `runs` in masks.json."""
    result = run.result()
    assert result is not None
    recorded = {"magnitudes": mask.magnitudes} if mask.magnitudes else {}
    identity = {"configuration": run.configuration, "seed": run.seed, **_round(run), "method": result.method}
    return {**identity, "chosen": mask.chosen, **density_by_place(mask.matrices), **recorded}


def density_by_place(matrices: Mapping[str, Sequence[int]]) -> Record:
    """{"layers": [...], "modules": [...], "density": one row per layer, one column per module type}.

    Args:
        matrices: (chosen entries, all entries) of each candidate by its path in the model. Candidates of one layer and
            type (the experts of a mixture) count as one.
    """
    counts: dict[tuple[int | str, str], list[int]] = defaultdict(lambda: [0, 0])
    for name, (chosen, numel) in matrices.items():
        place = counts[_place(name)]
        place[0] += chosen
        place[1] += numel
    layers = sorted({layer for layer, _ in counts}, key=lambda layer: (layer == OUTSIDE, layer))
    modules = list(dict.fromkeys(module for _, module in counts))
    shares = {place: chosen / numel for place, (chosen, numel) in counts.items()}
    density = [[shares.get((layer, module)) for module in modules] for layer in layers]
    return {"layers": layers, "modules": modules, "density": density}


def _place(name: str) -> tuple[int | str, str]:
    """The layer and the module type: (3, "q_proj") of model.layers.3.self_attn.q_proj."""
    *path, module = name.split(".")
    return next((int(part) for part in path if part.isdigit()), OUTSIDE), module


def jaccard(first: Path, second: Path) -> float:
    """The Jaccard index of two adapters' masks, in [0, 1]: entries in both over entries in either."""
    with opened(first) as one, opened(second) as other:
        ours, theirs = ({key for key in file.keys() if key.endswith(_INDICES)} for file in (one, other))  # noqa: SIM118
        both = sum(
            int(np.intersect1d(one.get_tensor(key), other.get_tensor(key), assume_unique=True).size)
            for key in ours & theirs
        )
        sizes = [int(f.get_slice(key).get_shape()[0]) for f, keys in ((one, ours), (other, theirs)) for key in keys]
    return both / (sum(sizes) - both)


def _between_seeds(runs: Sequence[RunFolder]) -> Iterator[Record]:
    for key, of_key in groupby(_with_adapter(runs), key=lambda run: run.configuration):
        for one, other in combinations(of_key, 2):
            if _round(one) == _round(other):
                shared, seeds = jaccard(one.adapter, other.adapter), [one.seed, other.seed]
                yield {"configuration": key, **_round(one), "seeds": seeds, "jaccard": shared}


def _between_methods(runs: Sequence[RunFolder], best: Mapping[str, str]) -> Iterator[Record]:
    """Only the best configurations of the methods are compared: all pairs would be quadratic in the sweep's size."""
    compared = [run for run in _with_adapter(runs) if run.configuration in best]
    for one, other in combinations(compared, 2):
        if one.seed == other.seed and _round(one) == _round(other):
            keys = [one.configuration, other.configuration]
            pair = {"methods": [best[k] for k in keys], "configurations": keys}
            yield {**pair, "seed": one.seed, **_round(one), "jaccard": jaccard(one.adapter, other.adapter)}


def _with_adapter(runs: Sequence[RunFolder]) -> list[RunFolder]:
    return [run for run in runs if _is_whole(run.adapter)]


def _is_whole(adapter: Path) -> bool:
    """Whether the adapter exists and is as long as its header says; a damaged one is reported once."""
    try:
        metadata_of(adapter)
    except FileNotFoundError:
        return False
    except Damaged as error:
        note_damage(error.path, error.reason, "its mask is compared with no other")
        return False
    return True
