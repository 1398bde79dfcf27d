"""Where gradient scores are stored: a folder next to the sweeps, shared by all with the same output."""

import shutil
from pathlib import Path

from gallop_ray.records.folders import SweepFolder

SUMS = ".sums"
"""Suffix of folders with gradient sums, from which a larger selection ratio may continue."""


def scores_folder(folder: SweepFolder) -> Path:
    """The score store of a sweep and its neighbours."""
    return folder.path.parent / "scores"


def drop_sums(folder: SweepFolder) -> None:
    """Remove all gradient sums: 4 bytes per entry, deleted when the sweep completes to free disk space.

    A neighbouring sweep that still runs recomputes what it misses; one that is reading sees a damaged file, or none.
    """
    for sums in scores_folder(folder).glob(f"*{SUMS}"):
        shutil.rmtree(sums, ignore_errors=True)
