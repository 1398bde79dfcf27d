"""Where gradient scores are kept: a folder beside the sweeps, for all of the same output."""

import shutil
from pathlib import Path

from gallop_ray.records.folders import SweepFolder

SUMS = ".sums"
"""Ends the names of folders with gradient sums, that a larger selection ratio may continue from."""


def scores_folder(folder: SweepFolder) -> Path:
    """The score store of a sweep and its neighbours."""
    return folder.path.parent / "scores"


def drop_sums(folder: SweepFolder) -> None:
    """Remove all gradient sums: 4 bytes per entry, deleted when the sweep completes to free disk space.

    A neighbour that still runs computes what it misses; a reader that is in the middle sees a damaged file, or none.
    """
    for sums in scores_folder(folder).glob(f"*{SUMS}"):
        shutil.rmtree(sums, ignore_errors=True)
