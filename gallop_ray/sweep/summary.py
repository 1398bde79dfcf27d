"""What a sweep leaves on the terminal."""

import sys

from rich.console import Console

from gallop_ray.reporting.statistics import sweep_statistics
from gallop_ray.reporting.status import SweepStatus
from gallop_ray.reporting.table import configurations_table, final_table
from gallop_ray.reporting.timing import timing_table
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.metrics import summarize
from gallop_ray.tracking import control
from gallop_ray.tracking.mlflow_store import tracking_uri
from gallop_ray.tracking.records import PAGE, SweepFolder


def print_summary(folder: SweepFolder, sweep: Sweep) -> bool:
    """Print the tables and where everything is. Whether every run that was begun has finished."""
    results, base = folder.results(), folder.base()
    console = Console() if sys.stdout.isatty() else Console(width=120)
    if not results or base is None:
        console.print(f"nothing has run yet in {folder.path}; gallop-ray resume goes on")
        return True
    metrics = summarize(base, base, sweep.data.train, sweep.data.ood)
    if len(folder.configurations()) > len(sweep.methods):
        console.print(configurations_table(results, sweep.objective))
    console.print(final_table(results, metrics, sweep.objective))
    if verdict := sweep_statistics(folder, sweep).verdict:
        console.print(verdict.text, end="\n\n", highlight=False, markup=False)
    console.print(timing_table(folder))
    console.print(f"records: {folder.path}\nMLflow:  {tracking_uri(sweep)}  (gallop-ray ui --output {sweep.output})")
    if (page := folder.path / PAGE).exists():
        console.print(f"report:  {page}", soft_wrap=True)
    left = SweepStatus(folder, sweep).look()["runs"]["to_do"]
    if left and (sweep.budget.hours or control.asked(folder)):
        console.print(f"ended early: {left} runs are to do; gallop-ray resume {folder.path}", soft_wrap=True)
    failed = [r for r in results if r["status"] != "finished"]
    for r in failed:
        console.print(f"[red]{r['configuration']} seed {r['seed']} {r['status']}: {r['reason']}", soft_wrap=True)
    return not failed
