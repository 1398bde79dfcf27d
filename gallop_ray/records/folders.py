"""The records of a sweep: its folders, which are the source of truth.

Times are in seconds (points in time: since 1970), sizes in bytes. Below <output>/<sweep name>/ there are

- spec.json, base.json, base_correct.json, base_outputs.json, base_predictions.jsonl, base_text.json, identity.json,
  results.jsonl, masks.json, masks.png,
  slots/, report/,
- <configuration>/configuration.json and status.json,
- <configuration>/seed-<n>/spec.json, environment.json, mask.json, correct.json, outputs.json, predictions.jsonl,
  metrics.jsonl, result.json, adapter.safetensors.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from gallop_ray.disk.damage import Damaged, note_damage
from gallop_ray.disk.locks import locked
from gallop_ray.disk.regular import remove
from gallop_ray.records.files import Record, append_line, complete_lines, read_json, write_json, write_lines
from gallop_ray.records.predictions import BASE_FILE, write_predictions
from gallop_ray.records.results import (
    CONFIRMATION,
    FINAL,
    BaseProgress,
    BaseResult,
    BaseText,
    Chance,
    ConfigurationStatus,
    RunResult,
    StoredConfiguration,
)
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.records.typed import FIRST, StoredRecord, note_unread, refuse_newer, write_record
from gallop_ray.spec.configuration import content_hash

MASK_REPORT = ("masks.json", "masks.png")
"""The report on a finished sweep's masks."""
PAGE = "report/report.html"
"""The report, in the sweep's folder."""
VERDICT = "report/verdict.txt"
"""The report's verdict in plain words."""
_LISTING = "results.jsonl"
_BASE_PROGRESS = "base_progress.json"
_SEED_FOLDER = re.compile(r"seed-(0|[1-9]\d*)")
_KEY = re.compile(r"\w[\w-]*")  # `.bak`, ` copy` and the like are not configurations
_HASHED = re.compile(r".*-([0-9a-f]{8})")
_MEASURED_AGAIN = "the next start measures the base model again"
_Measured = TypeVar("_Measured", bound=StoredRecord)


@dataclass(frozen=True)
class ConfigurationFolder:
    """The record of one configuration, written by the driver."""

    path: Path

    @property
    def key(self) -> str:
        """The configuration's key."""
        return self.path.name

    @property
    def method(self) -> str:
        """The name of its method, with which the key begins."""
        return self.key.rpartition("-")[0]

    def create(self, configuration: Mapping[str, Any]) -> None:
        """Create the folder and configuration.json; nothing changes when it exists already."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / "configuration.json"
        try:
            there = self._stored() is not None
        except Damaged as error:
            note_unread(error, "it is written again")
            there = False
        if not there:
            write_json(path, configuration)  # without a version: the key is the hash of exactly this content

    def configuration(self) -> StoredConfiguration:
        """configuration.json; for a damaged or edited one, reported once, what its runs say. ValueError without."""
        try:
            value = self._stored()
        except Damaged as error:
            asked = next((spec["configuration"] for spec in self._specs() if "configuration" in spec), None)
            if asked is None:
                raise
            note_damage(error.path, error.reason, "what its runs were asked counts instead")
            value = StoredConfiguration.model_validate(asked)
        if value is None:
            raise ValueError(f"{self.path} is not a configuration of a sweep: it has no configuration.json")
        return value

    def _stored(self) -> StoredConfiguration | None:
        """configuration.json, verified by the key, which ends in its hash. Raises Damaged.

        Where the hash differs, as with another way of hashing, it counts if a run's spec agrees with it.
        """
        path = self.path / "configuration.json"
        value = StoredConfiguration.read(path)
        given = _HASHED.fullmatch(self.key)
        if value is None or given is None:
            return value
        content = read_json(path)
        assert content is not None
        if content_hash(content) == given.group(1) or any(
            spec.get("configuration") == content for spec in self._specs()
        ):
            return value
        raise Damaged(path, "is not what its folder was named by: it has been changed")

    def method_name(self) -> str:
        """The method's name from configuration.json, else from the key."""
        try:
            return str((read_json(self.path / "configuration.json") or {})["method"]["name"])
        except (Damaged, KeyError, TypeError):
            return self.method

    def _specs(self) -> Iterator[Record]:
        return (spec for run in self.runs() if (spec := run.read("spec")))

    def status(self) -> ConfigurationStatus:
        """status.json; `running` before it is first written, and where it is unreadable, which is reported once."""
        try:
            found = ConfigurationStatus.read(self.path / "status.json")
        except Damaged as error:
            note_unread(error, "the configuration counts as not over; the next start looks at its runs")
            found = None
        return found or ConfigurationStatus(status="running")

    def write_status(
        self, status: str, seeds_done: Sequence[int], objective: float | None = None, reason: str | None = None
    ) -> None:
        """Write status.json: running, waiting, finished, pruned, failed or diverged; objective: the mean over seeds."""
        assert status in ("running", "waiting", *FINAL), status
        value = {"status": status, "reason": reason, "objective": objective, "seeds_done": list(seeds_done)}
        write_record(self.path / "status.json", value)

    def run(self, seed: int) -> RunFolder:
        """The run of a seed, whether or not it has started."""
        return RunFolder(self.path / f"seed-{seed}")

    def runs(self) -> list[RunFolder]:
        """The runs that have started, by seed."""
        found = (_SEED_FOLDER.fullmatch(child.name) for child in self.path.iterdir())
        return [self.run(seed) for seed in sorted(int(match.group(1)) for match in found if match)]

    def results(self) -> list[RunResult]:
        """The results of the search's runs that are over, by seed."""
        found = (run.result() for run in self.runs())
        return [result for result in found if result and result.stage != CONFIRMATION]


@dataclass(frozen=True)
class SweepFolder:
    """The record of a sweep, written by the driver."""

    path: Path

    def create(self, spec: Mapping[str, Any]) -> None:
        """Create the folder and spec.json, the resolved sweep."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_record(self.path / "spec.json", spec)

    def exists(self) -> bool:
        """Whether a sweep has been started here."""
        return (self.path / "spec.json").exists()

    def spec(self) -> Record:
        """The resolved sweep. Raises ValueError when the folder holds none."""
        return {name: value for name, value in self._spec().items() if name != "version"}

    def version(self) -> str:
        """The version of its records, that of its last start. Raises as `spec`, and for an invalid version."""
        version = self._spec().get("version", FIRST)
        refuse_newer(version, self.path / "spec.json")
        return str(version)

    def _spec(self) -> Record:
        spec = read_json(self.path / "spec.json")
        if spec is None:
            raise ValueError(f"{self.path} is not a sweep: it has no spec.json. Give the folder <output>/<sweep name>")
        return spec

    def base(self) -> dict[str, dict[str, dict[str, float]]] | None:
        """Accuracy of the base model; None until it was measured, and where unreadable, which is reported once."""
        found = self._measured("base.json", BaseResult)
        return None if found is None else found.tasks

    def chance(self) -> dict[str, Chance]:
        """What guessing reaches on validation examples, by task with options; empty where it was not recorded."""
        found = self._measured("base.json", BaseResult)
        return {} if found is None else found.chance

    def _measured(self, name: str, kind: type[_Measured]) -> _Measured | None:
        try:
            return kind.read(self.path / name)
        except Damaged as error:
            note_unread(error, _MEASURED_AGAIN)
            return None

    def base_text_loss(self) -> float | None:
        """The base model's loss on general text; None where it was not measured."""
        found = self._measured("base_text.json", BaseText)
        return None if found is None else found.text_loss

    @property
    def base_predictions(self) -> Path:
        """The path of what the base model said to test examples."""
        return self.path / BASE_FILE

    def note_base_progress(self, done: int, total: int, what: str) -> None:
        """Write how far the measurement of the base model is, for displays alone."""
        value = {"time": time.time(), "done": done, "total": total, "what": what}
        write_json(self.path / _BASE_PROGRESS, value, durable=False)

    def base_progress(self) -> BaseProgress | None:
        """How far it is; None before the first report and after the end, and where it is unreadable."""
        try:
            return BaseProgress.read(self.path / _BASE_PROGRESS)
        except Damaged:  # the next report replaces it
            return None

    def write_base(
        self,
        accuracy: Mapping[str, Any],
        correct: Mapping[str, Any],
        outputs: Mapping[str, Any],
        text_loss: float | None,
        chance: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
        predictions: Sequence[Record] = (),
        val_text_loss: float | None = None,
    ) -> None:
        """Write the base model's measurements. base.json, the accuracies, is last: it means that all is there."""
        write_json(self.path / "base_correct.json", correct)
        write_json(self.path / "base_outputs.json", outputs)
        write_predictions(self.base_predictions, predictions)
        validated = {} if val_text_loss is None else {"val_text_loss": val_text_loss}
        write_json(self.path / "base_text.json", {"text_loss": text_loss, **validated})
        write_record(self.path / "base.json", {"tasks": accuracy, "chance": dict(chance)})
        remove(self.path / _BASE_PROGRESS)

    def configuration(self, key: str) -> ConfigurationFolder:
        """The configuration with that key, whether or not it has started."""
        return ConfigurationFolder(self.path / key)

    def configurations(self) -> list[ConfigurationFolder]:
        """The configurations that have started, by key."""
        found = [path.parent for path in sorted(self.path.glob("*/configuration.json"))]
        for path in found:
            if not _KEY.fullmatch(path.name):
                note_damage(path, "has no name of a configuration, as a copy of one", "it is left out")
        return [ConfigurationFolder(path) for path in found if _KEY.fullmatch(path.name)]

    def unfinished(self) -> list[str]:
        """Keys of the configurations that have started and are not over."""
        return [each.key for each in self.configurations() if not each.status().over]

    def run(self, key: str, seed: int) -> RunFolder:
        """The run of a configuration and seed, whether or not it has started."""
        return self.configuration(key).run(seed)

    def runs(self) -> Iterator[RunFolder]:
        """The runs that have started, by configuration and seed; their files are read lazily."""
        for configuration in self.configurations():
            yield from configuration.runs()

    def results(self) -> list[RunResult]:
        """The results of all runs that are over, from the run folders."""
        return [result for run in self.runs() if (result := run.result())]

    def rebuild_results(self) -> None:
        """Write results.jsonl, one flat line per run, from the run folders."""
        with locked(self._listing):
            write_lines(self.path / _LISTING, (result.flat() for run in self.runs() if (result := run.result())))

    def append_result(self, run: RunFolder) -> None:
        """Add a run that is over to results.jsonl; a retried run replaces its line."""
        result = run.result()
        assert result is not None, f"{run.path} is not over"
        with locked(self._listing):
            # A first attempt cannot be listed: to read the whole file for each run would be quadratic.
            if run.attempt() == 1 or not self._lists(run):
                append_line(self.path / _LISTING, result.flat())
                return
        self.rebuild_results()

    @property
    def _listing(self) -> Path:
        """The lock of results.jsonl: trials are separate processes, and replacing the file must not lose a line."""
        return self.path / ".results.lock"

    def listed(self) -> list[RunResult]:
        """The lines of results.jsonl without malformed ones: the file is derived, and each start rewrites it."""
        path = self.path / _LISTING
        return list(filter(None, (_listed(line, path) for line in complete_lines(path))))

    def _lists(self, run: RunFolder) -> bool:
        return any((line.configuration, line.seed) == (run.configuration, run.seed) for line in self.listed())


def _listed(line: bytes, path: Path) -> RunResult | None:
    try:
        return RunResult.parse(line, path)
    except Damaged as error:
        note_damage(path, f"has a line that {error.reason}", "such lines are left out")
        return None
