"""The data of a sweep as MLflow shows it: a dataset for each split that its runs use, with the hash that was kept."""

import hashlib
import json
from typing import NamedTuple

from gallop_ray.disk.damage import Damaged, note_damage
from gallop_ray.spec.schema import DataSpec, Sweep
from gallop_ray.tracking.identity import split_hashes
from gallop_ray.tracking.records import SweepFolder

_CONTEXTS = {"train": "training", "validation": "validation", "test": "test"}
_NO_EXAMPLES = hashlib.sha256().hexdigest()
_DIGEST_LENGTH = 12
"""As what has changed is told by; MLflow takes 36, which leave no room in its table for what a dataset is for."""


class DatasetInput(NamedTuple):
    """A split of a task. digest: the beginning of its hash in identity.json; source: JSON; context: what it is for."""

    name: str
    digest: str
    source_type: str
    source: str
    context: str


def dataset_inputs(folder: SweepFolder, sweep: Sweep) -> list[DatasetInput]:
    """What the runs of a sweep train on, validate and test with, what they train on first.

    Empty until the first slot has loaded the data and noted its hashes, which is before any run begins.
    """
    try:
        kept = split_hashes(folder)
    except Damaged as error:
        note_damage(error.path, error.reason, "MLflow is not told of the datasets")
        return []
    data = sweep.data
    used = [each for each in kept if each[1] in _CONTEXTS and each[2] != _NO_EXAMPLES]
    found = [_input(task, split, digest, data) for task, split, digest in used]
    return sorted(found, key=lambda each: (each.context != "training", each.name not in data.train_tasks))


def _input(task: str, split: str, digest: str, data: DataSpec) -> DatasetInput:
    kind = data.root if data.root in ("hub", "generated") else "local"
    drawn = {"split_seed": data.split_seed, "limit": getattr(data.limits, split)}
    source = {"uri": data.root, "task": task, "split": split, **drawn}
    return DatasetInput(task, digest[:_DIGEST_LENGTH], kind, json.dumps(source), _CONTEXTS[split])
