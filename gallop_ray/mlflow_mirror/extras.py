"""What MLflow has besides runs: the datasets that they use, and models. Older servers lack one or both."""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gallop_ray.disk.damage import Damaged, note_damage
from gallop_ray.mlflow_mirror.trouble import REFUSALS
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.identity import split_hashes
from gallop_ray.spec.basics import basics_name
from gallop_ray.spec.data import DataSpec
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.tasks import is_local

_CONTEXTS = {"train": "training", "validation": "validation", "test": "test"}
_NO_EXAMPLES = hashlib.sha256().hexdigest()
_DIGEST_LENGTH = 12
"""As long as in messages about changed data. MLflow takes 36, which leave no space in its table for the context."""


class DatasetInput(NamedTuple):
    """A split of a task. digest: the beginning of its hash in identity.json; source: JSON; context: its purpose."""

    name: str
    digest: str
    source_type: str
    source: str
    context: str


def dataset_inputs(folder: SweepFolder, sweep: Sweep) -> list[DatasetInput]:
    """The datasets that a sweep's runs train on, validate with and test with, in this order.

    Empty until the first slot has loaded the data and noted its hashes, which is before any run starts.
    """
    try:
        kept = split_hashes(folder)
    except Damaged as error:
        note_damage(error.path, error.reason, "MLflow does not get the datasets")
        return []
    data = sweep.data
    used = [each for each in kept if each[1] in _CONTEXTS and each[2] != _NO_EXAMPLES]
    found = [_input(task, split, digest, data) for task, split, digest in used]
    return sorted(found, key=lambda each: (each.context != "training", each.name not in data.train_tasks))


def _input(task: str, split: str, digest: str, data: DataSpec) -> DatasetInput:
    place = data.task(task).source or data.root
    basics = basics_name(place) is not None
    kind = place if place in ("hub", "generated") else "local" if basics or is_local(place) else "hub"
    drawn = {"split_seed": data.split_seed, "limit": getattr(data.limits, split)}
    source = {"uri": place, "task": task, "split": split, **drawn}
    return DatasetInput(task, digest[:_DIGEST_LENGTH], kind, json.dumps(source), _CONTEXTS[split])


if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

ID_TAG = "gallop_ray.id"
"""The tag by which a run or model is found again that a killed process has created but not noted."""
_LOG = logging.getLogger(__name__)
_UNKNOWN = ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED")


class Extras:
    """Datasets and models of one experiment.

    Args:
        client: of the store.
        experiment: its id.
        is_active: whether a run exists and is not deleted.
    """

    def __init__(self, client: "MlflowClient", experiment: str, is_active: Callable[[str], bool]) -> None:
        self._client, self._experiment, self._is_active = client, experiment, is_active
        self._untaken: set[str] = set()

    def log_datasets(self, run_id: str, datasets: Sequence[DatasetInput]) -> bool:
        """Log the datasets of a run, in one idempotent request. Returns whether MLflow accepted them."""
        from mlflow.entities import Dataset, InputTag
        from mlflow.entities import DatasetInput as Input
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        inputs = [
            Input(Dataset(name, digest, kind, source), [InputTag(MLFLOW_DATASET_CONTEXT, context)])
            for name, digest, kind, source, context in datasets
        ]
        return self._taken("datasets", run_id, lambda: self._client.log_inputs(run_id, inputs))

    def log_model(self, run_id: str, name: str, file: Path, tags: Mapping[str, str]) -> bool:
        """Make a file the run's only model, or replace that model's file and tags. Whether MLflow accepted it."""
        return self._taken("models", run_id, lambda: self._log_model(run_id, name, file, tags))

    def _log_model(self, run_id: str, name: str, file: Path, tags: Mapping[str, str]) -> None:
        from mlflow.entities import LoggedModelOutput

        model = self._model_of(run_id, name, {ID_TAG: run_id, **tags})
        self._client.log_model_artifact(model.model_id, str(file))
        if model.status.value != "READY":
            self._client.finalize_logged_model(model.model_id, "READY")
        outputs = self._client.get_run(run_id).outputs
        if not any(each.model_id == model.model_id for each in (outputs.model_outputs if outputs else ())):
            self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])

    def _model_of(self, run_id: str, name: str, tags: dict[str, str]) -> "LoggedModel":
        of_the_run = f"tags.`{ID_TAG}` = '{run_id}'"
        found = self._client.search_logged_models([self._experiment], of_the_run, max_results=1)
        if not found:
            return self._client.create_logged_model(
                self._experiment, _model_name(name), run_id, tags, model_type="adapter"
            )
        self._client.set_logged_model_tags(found[0].model_id, tags)
        return found[0]

    def _taken(self, what: str, run_id: str, send: Callable[[], None]) -> bool:
        """Send; what a server does not support is reported once and not tried again, and everything else is logged."""
        from mlflow.exceptions import MlflowException

        if what in self._untaken:
            return False
        try:
            send()
        except (MlflowException, NotImplementedError) as error:
            if not (unknown := _is_unknown(error)) and getattr(error, "error_code", "") not in REFUSALS:
                raise
            if unknown or self._is_active(run_id):
                reason = "its version knows none" if unknown else str(error).strip().splitlines()[0]
                _LOG.warning("MLflow takes no %s, but all the rest (%s)", what, reason)
                self._untaken.add(what)
            return False
        return True


def _is_unknown(error: Exception) -> bool:
    """Whether an error means that this server, or this kind of store, does not know the request."""
    if isinstance(error, NotImplementedError):
        return True
    return getattr(error, "error_code", "") in _UNKNOWN or "failed with error code 405" in str(error)


def _model_name(name: str) -> str:
    """A model's name, with the characters that MLflow refuses replaced."""
    return re.sub(r"[/:.%\"']", "-", name)
