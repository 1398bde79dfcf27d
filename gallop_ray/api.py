"""What notebooks and scripts use, in the words of the sweep file. Offered by `gallop_ray` itself.

Nothing heavy is imported before it is needed: reading results needs neither torch nor Ray.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.schema import Sweep

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_sweep", "results", "run_sweep"]


def run_sweep(sweep: Sweep | str | Path, overrides: Sequence[str] = (), verbose: bool = False) -> Path:
    """Run what is not yet done of a sweep, as `gallop-ray run` does, and return its folder.

    Args:
        sweep: a sweep, or the path of its file.
        overrides: of a file, as `--set` has them: "training.epochs=2".
        verbose: show what Ray and DeepSpeed say, too.

    Raises:
        ValueError: for what the user has to mend; a mistake in the file with its line.
    """
    if isinstance(sweep, Sweep) and overrides:
        raise ValueError("overrides belong to a sweep file: give them to load_sweep")
    from gallop_ray.sweep.driver import located
    from gallop_ray.sweep.driver import run_sweep as run

    asked = sweep if isinstance(sweep, Sweep) else load_sweep(sweep, overrides)
    return run(located(asked), verbose).path


def results(directory: str | Path) -> "pd.DataFrame":
    """One row a run that is over, with the columns of results.jsonl; also while the sweep runs.

    Args:
        directory: the sweep's folder, <output>/<sweep name>.

    Raises:
        ValueError: there is no sweep.
    """
    from gallop_ray.reporting.frame import results_frame
    from gallop_ray.reporting.status import opened

    return results_frame(*opened(str(directory)))
