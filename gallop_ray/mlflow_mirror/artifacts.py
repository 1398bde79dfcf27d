"""The artifacts of a finished sweep, uploaded to its own MLflow run: verdict, report, the best adapter."""

import logging
from dataclasses import asdict
from pathlib import Path

from gallop_ray.analysis.ranking import best, best_run
from gallop_ray.disk.bucket.tree import present
from gallop_ray.mlflow_mirror.store import MlflowStore
from gallop_ray.records.folders import MASK_REPORT, PAGE, VERDICT, SweepFolder
from gallop_ray.records.predictions import FILE
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.spec.schema import Sweep

_LOG = logging.getLogger(__name__)
_FILES = (*MASK_REPORT, "results.jsonl")
_ADAPTER = "adapter/adapter.safetensors"
ADAPTER_BYTES = 1 << 28
"""Larger adapters (all weights of a large model) are not uploaded; they stay in their run folders."""


def handed_out(folder: SweepFolder, sweep: Sweep) -> RunFolder | None:
    """The run whose adapter is uploaded: the best seed of the best configuration; None where no adapter is left."""
    found = best(folder.results(), sweep.objective)
    run = best_run(folder, found[0], sweep.objective) if found else None
    return run if run is not None and present(run.adapter) else None


def upload_sweep_artifacts(folder: SweepFolder, sweep: Sweep, store: MlflowStore, run_id: str) -> None:
    """Set the description of the sweep's MLflow run to the report's verdict; upload report, tables and adapter.

    Missing files are skipped. Uploading again replaces what was there.
    """
    chosen = handed_out(folder, sweep)
    store.log(run_id, tags={"mlflow.note.content": _description(folder, sweep, store, run_id, chosen)})
    for name in _FILES:
        if (folder.path / name).exists():
            store.upload(run_id, folder.path / name)
    if (report := (folder.path / PAGE).parent).exists():
        store.upload_folder(run_id, report)
    _upload_answers(folder, sweep, store, run_id)
    if chosen is not None:
        if (said := chosen.path / FILE).exists():
            store.upload(run_id, said)
        _hand_out_adapter(folder, chosen, store, run_id)


def _upload_answers(folder: SweepFolder, sweep: Sweep, store: MlflowStore, run_id: str) -> None:
    """Answers gained and lost, and samples of them, as tables that MLflow's UI shows."""
    from gallop_ray.analysis.flips import flips_from_base  # here: scipy, which a sweep's start does without
    from gallop_ray.analysis.samples import samples

    found = best(folder.results(), sweep.objective)
    flipped = [{"method": method, **asdict(each)} for method, each in flips_from_base(folder, sweep, found)]
    store.upload_tables(
        run_id, {"flips.json": flipped, "samples.json": [asdict(each) for each in samples(folder, found)]}
    )


def _hand_out_adapter(folder: SweepFolder, run: RunFolder, store: MlflowStore, run_id: str) -> None:
    """Upload as an artifact and as a model: the sweep has one, which a later, better adapter replaces."""
    size = run.adapter.stat().st_size
    if size > ADAPTER_BYTES:
        _LOG.warning("%s is not copied to MLflow: %.1f GB are too much for a copy", run.adapter, size / 1e9)
        return
    store.upload(run_id, run.adapter, str(Path(_ADAPTER).parent))
    tags = {"sweep": folder.path.name, "configuration": run.configuration, "seed": str(run.seed)}
    store.extras.log_model(run_id, folder.path.name, run.adapter, tags)


def _description(folder: SweepFolder, sweep: Sweep, store: MlflowStore, run_id: str, chosen: RunFolder | None) -> str:
    """The description, in Markdown, which MLflow renders."""
    verdict = folder.path / VERDICT
    lines = [verdict.read_text(encoding="utf-8").strip()] if verdict.exists() else []
    from gallop_ray.analysis.diagnoses import diagnoses  # here: numpy, which a sweep's start does without

    if found := diagnoses(folder, sweep):
        lines.append("\n".join(f"- {each.kind}: {each.text}" for each in found))
    if (folder.path / PAGE).exists():
        lines.append(f"[The report]({store.page(run_id, PAGE)}) is among the artifacts.")
    if chosen is not None:
        where = f"`{chosen.configuration}/seed-{chosen.seed}`"
        held = chosen.adapter.stat().st_size <= ADAPTER_BYTES
        where += f", adapter: [{_ADAPTER}]({store.page(run_id, _ADAPTER)})" if held else ""
        lines.append(f"Best run by validation: {where}")
    lines.append(f"Records: `{folder.path}`")
    return "\n\n".join(lines)
