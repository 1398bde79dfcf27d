"""The methods of which a comparison says nothing, and why."""

from collections import Counter
from collections.abc import Sequence

from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.plan import plan_sweep
from gallop_ray.spec.schema import Sweep


def missing_text(folder: SweepFolder, sweep: Sweep, compared: Sequence[str]) -> str | None:
    """Which methods are not among those compared: they have not finished, or ended without a result. None: all are."""
    names = [method.name for method in sweep.methods if method.name not in compared]
    if not names:
        return None
    over = _over(folder, sweep)
    unfinished = [name for name in names if name not in over]
    ended = [f"{name} ({_why(folder, name)})" for name in names if name in over]
    said = [("Not finished yet", unfinished), ("Without a result", ended)]
    return " ".join(f"{what}: {', '.join(of)}." for what, of in said if of)


def _over(folder: SweepFolder, sweep: Sweep) -> set[str]:
    """The methods all of whose configurations have ended, in whatever way."""
    ended = Counter(each.method_name() for each in folder.configurations() if each.status().over)
    planned = plan_sweep(sweep, None).methods
    return {plan.method for plan in planned if ended[plan.method] >= max(1, plan.configurations)}


def _why(folder: SweepFolder, method: str) -> str:
    """How the runs ended that keep a method's configurations from being chosen."""
    ends = {result.status for result in folder.results() if result.method == method and result.failed}
    return " and ".join(sorted(ends)) or "not measured"
