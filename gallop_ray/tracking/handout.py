"""What a finished sweep hands out in MLflow, all of it at the sweep's own run: verdict, report, the best adapter."""

import logging
from pathlib import Path

from gallop_ray.spec.schema import Sweep
from gallop_ray.tracking.mlflow_store import MlflowStore
from gallop_ray.tracking.records import MASK_REPORT, PAGE, VERDICT, SweepFolder
from gallop_ray.tracking.runs import RunFolder
from gallop_ray.tracking.summary import objective_value

_LOG = logging.getLogger(__name__)
_FILES = (*MASK_REPORT, "results.jsonl")
_ADAPTER = "adapter/adapter.safetensors"
ADAPTER_BYTES = 1 << 28
"""A larger adapter (all weights of a large model) stays in its run folder alone."""


def best_run(folder: SweepFolder, sweep: Sweep) -> RunFolder | None:
    """The best seed of the best configuration of the search that has an adapter; None where there is none.

    Where several metrics are the objective, the first of them decides.
    """
    better, of = (max if sweep.objective.maximize else min), sweep.objective.metric
    found = []
    for configuration in folder.configurations():
        results = configuration.results()
        kept = [
            (result[of], result["seed"])
            for result in results
            if result.get(of) is not None and configuration.run(result["seed"]).adapter.exists()
        ]
        value = objective_value(results, sweep.objective)
        if kept and value is not None:
            found.append((value, configuration.run(better(kept)[1])))
    return better(found, key=lambda each: each[0])[1] if found else None


def hand_out(folder: SweepFolder, sweep: Sweep, store: MlflowStore, run_id: str) -> None:
    """Describe the sweep's MLflow run by the report's verdict, and give it the report, the tables and the adapter.

    What is not there is left out. Sending it again replaces what was sent.
    """
    best = best_run(folder, sweep)
    store.log(run_id, tags={"mlflow.note.content": _description(folder, store, run_id, best)})
    for name in _FILES:
        if (folder.path / name).exists():
            store.upload(run_id, folder.path / name)
    if (report := (folder.path / PAGE).parent).exists():
        store.upload_folder(run_id, report)
    if best is not None:
        _hand_out_adapter(best, store, run_id)


def _hand_out_adapter(best: RunFolder, store: MlflowStore, run_id: str) -> None:
    size = best.adapter.stat().st_size
    if size > ADAPTER_BYTES:
        _LOG.warning("MLflow gets no copy of %s: %.1f GB are more than a copy should take", best.adapter, size / 1e9)
        return
    store.upload(run_id, best.adapter, str(Path(_ADAPTER).parent))


def _description(folder: SweepFolder, store: MlflowStore, run_id: str, best: RunFolder | None) -> str:
    """Markdown, as MLflow's page shows it."""
    verdict = folder.path / VERDICT
    lines = [verdict.read_text(encoding="utf-8").strip()] if verdict.exists() else []
    if (folder.path / PAGE).exists():
        lines.append(f"[The report]({store.page(run_id, PAGE)}) is among the artifacts.")
    if best is not None:
        where = f"`{best.configuration}/seed-{best.seed}`"
        held = best.adapter.stat().st_size <= ADAPTER_BYTES
        where += f", adapter: [{_ADAPTER}]({store.page(run_id, _ADAPTER)})" if held else ""
        lines.append(f"Best run by validation: {where}")
    lines.append(f"Records: `{folder.path}`")
    return "\n\n".join(lines)
