"""What is printed at the end of a sweep."""

import sys

from rich import box
from rich.console import Console
from rich.table import Table

from gallop_ray.analysis.diagnoses import diagnoses
from gallop_ray.analysis.edges import edges_of
from gallop_ray.analysis.ranking import best
from gallop_ray.analysis.statistics import sweep_statistics
from gallop_ray.analysis.status import StatusReader
from gallop_ray.analysis.timing import NAMED, slot_times, wall_seconds
from gallop_ray.disk.bucket.address import address_of
from gallop_ray.mlflow_mirror.store import tracking_uri
from gallop_ray.records import control
from gallop_ray.records.folders import PAGE, SweepFolder
from gallop_ray.reporting.table import configurations_table, final_table, print_whole
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.secrets import hidden
from gallop_ray.tasks.metrics import base_metrics


def print_summary(folder: SweepFolder, sweep: Sweep) -> bool:
    """Print the tables and where everything is. Returns whether no run failed, and all were run that should be."""
    results, base, where = folder.results(), folder.base(), address_of(folder.path)
    # No markup: reasons and paths may contain brackets.
    console = Console(width=None if sys.stdout.isatty() else 120, markup=False)
    if not results or base is None:
        console.print(f"nothing has run yet in {where}; gallop-ray resume starts it")
        return True
    metrics = base_metrics(base, sweep.data)
    if len(folder.configurations()) > len(sweep.methods):
        print_whole(console, configurations_table(results, sweep.objective))
    chosen = best(results, sweep.objective)
    edges = edges_of(folder, sweep, chosen)
    print_whole(console, final_table(results, metrics, sweep.objective, edges))
    if verdict := sweep_statistics(folder, sweep).verdict:
        console.print(verdict.text, end="\n\n", highlight=False)
    for each in diagnoses(folder, sweep, chosen):
        console.print(f"{each.kind}: {each.text}", soft_wrap=True, highlight=False)
    console.print(timing_table(folder))
    console.print(f"records: {where}")
    console.print(f"MLflow:  {hidden(tracking_uri(sweep))}  (gallop-ray ui --output {folder.path})", soft_wrap=True)
    if (page := folder.path / PAGE).exists():
        console.print(f"report:  {address_of(page)}", soft_wrap=True)
    left = StatusReader(folder, sweep).look().runs.to_do
    on_purpose = bool(sweep.budget.hours or control.asked(folder))
    lost = [] if on_purpose else folder.unfinished()
    if left and (on_purpose or lost):
        console.print(f"stopped early: {left} runs remaining; gallop-ray resume {where}", soft_wrap=True)
    failed = [result for result in results if result.failed]
    for bad in failed:
        console.print(f"{bad.configuration} seed {bad.seed} {bad.status}: {bad.reason}", style="red", soft_wrap=True)
    return not failed and not lost


def timing_table(folder: SweepFolder) -> Table:
    """Wall time of each slot, and the shares of it in percent."""
    table = Table(title=f"Time: {wall_seconds(folder):.0f} s", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("Slot")
    for heading in ("Seconds", *(name.capitalize() for name in NAMED), "Other"):
        table.add_column(heading, justify="right")
    for slot, times in slot_times(folder).items():
        table.add_row(slot, f"{times.wall:.0f}", *(f"{100 * share:.0f} %" for share in times.shares().values()))
    return table
