"""What a worker has of a sweep that lies in a bucket: copies on its node, which are never trusted across drivers."""

import os
from pathlib import Path

from gallop_ray.disk.bucket.lease import LEASE_VARIABLE, borrow, is_of_driver
from gallop_ray.disk.bucket.tree import flush, tree_of
from gallop_ray.disk.locks import locked
from gallop_ray.disk.trouble import described_trouble
from gallop_ray.errors import Halted
from gallop_ray.records.folders import ConfigurationFolder, SweepFolder
from gallop_ray.slots.jobs import Job, Outcome, RunJob
from gallop_ray.sparse.weights import all_ranks

_BASE = ("base.json", "base_text.json", "base_predictions.jsonl")
_START_SECONDS = 120.0
_BROUGHT, _LOCK = ".brought", ".brought.lock"


def bring(folder: SweepFolder) -> None:
    """Of a bucket: fetch what belongs to no single run, and from now on send what was written when a job has ended.

    Once per node and driver, by the first worker, before anything is written: an earlier sweep may have had the same
    address. On the driver's machine nothing is fetched, since its own copies are up to date.
    """
    if (tree := tree_of(folder.path)) is None:
        return
    tree.held = True
    borrow(folder.path)
    if is_of_driver(folder.path):
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    brought, driver = folder.path / _BROUGHT, os.environ.get(LEASE_VARIABLE, "")
    with tree.waiting(_START_SECONDS), locked(folder.path / _LOCK):
        if not brought.exists() or brought.read_text() != driver:
            tree.pull(folder.path, of=lambda path: not _is_of_a_run(folder, path))
            tree.drop_tensors(folder.path)
            brought.write_text(driver)


def _is_of_a_run(folder: SweepFolder, path: Path) -> bool:
    return any(part.startswith("seed-") for part in path.relative_to(folder.path).parts[:-1])


def bring_run(folder: SweepFolder, configuration: ConfigurationFolder, seed: int) -> None:
    """Of a bucket: fetch what the run has left, and what the driver has written since this worker started. Collective.

    By one rank of each node, before any rank writes.
    """
    if (tree := tree_of(folder.path)) is None:
        return
    if os.environ.get("LOCAL_RANK", "0") == "0":
        tree.pull(configuration.run(seed).path, tensors=True)
        if not is_of_driver(folder.path):
            for path in (configuration.path / "configuration.json", *(folder.path / name for name in _BASE)):
                tree.refresh(path)
    all_ranks(True)


def sent(folder: SweepFolder, job: Job, outcome: Outcome) -> Outcome:
    """The outcome, once what was written until then lies in the bucket; waits for a bucket that is away.

    The tensors of a finished run are then left there alone: who removes them, by `retention`, does not see this node.
    """
    try:
        flush(folder.path)
    except (OSError, Halted) as error:
        return Outcome("storage", described_trouble(error) if isinstance(error, OSError) else str(error))
    tree = tree_of(folder.path)
    if tree is not None and isinstance(job, RunJob) and outcome.status == "finished" and not is_of_driver(folder.path):
        tree.drop_tensors(folder.configuration(job.configuration).run(job.seed).path)
    return outcome
