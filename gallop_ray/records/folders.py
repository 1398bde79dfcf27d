"""The records of a sweep: folders that are its truth.

Times are seconds (points in time: since 1970), sizes bytes. Below <output>/<sweep name>/ there are

- spec.json, base.json, base_correct.json, base_outputs.json, base_text.json, identity.json, results.jsonl,
  masks.json, masks.png,
  slots/, report/,
- <configuration>/configuration.json and status.json,
- <configuration>/seed-<n>/spec.json, environment.json, mask.json, correct.json, outputs.json, metrics.jsonl,
  result.json, adapter.safetensors.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gallop_ray.disk.damage import Damaged, note_damage
from gallop_ray.disk.locks import locked
from gallop_ray.records.files import Record, append_line, read_json, read_lines, write_json, write_lines
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.records.shapes import (
    FINAL,
    Shape,
    integer,
    listed,
    mapping,
    number,
    one_of,
    optional,
    text,
    wrong_result,
)
from gallop_ray.records.summary import flatten

__all__ = ["CONFIRMATION", "FINAL", "MASK_REPORT", "PAGE", "SEARCH", "VERDICT", "ConfigurationFolder", "SweepFolder"]

SEARCH, CONFIRMATION = "search", "confirmation"
"""The stage of a run: with a seed of the sweep, or after the search with a fresh one."""
MASK_REPORT = ("masks.json", "masks.png")
"""What a finished sweep says of its masks."""
PAGE = "report/report.html"
"""The report, in the sweep's folder."""
VERDICT = "report/verdict.txt"
"""The report's verdict in plain words."""
_LISTING = "results.jsonl"
_SEED_FOLDER = re.compile(r"seed-(\d+)")
_STATUS = Shape(
    needed={"status": one_of("running", *FINAL)},
    known={"reason": optional(text), "objective": optional(number), "seeds_done": listed(integer)},
    defaults={"reason": None, "objective": None, "seeds_done": []},
)
_CONFIGURATION = Shape(needed={"method": mapping(), "training": mapping()})
_BASE = Shape(known={})
_ACCURACIES = mapping(mapping(mapping(optional(number))))
_MEASURED_AGAIN = "the next start measures the base model again"
_TEXT = Shape(known={"text_loss": optional(number)})


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
        """Make the folder and write configuration.json; nothing changes when it is there already."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / "configuration.json"
        try:
            there = _CONFIGURATION.read(path) is not None
        except Damaged as error:
            note_damage(path, error.reason, "it is written again")
            there = False
        if not there:
            write_json(path, configuration)

    def configuration(self) -> Record:
        """configuration.json; of a damaged one, which is said once, what its runs say. ValueError without either."""
        path = self.path / "configuration.json"
        try:
            value = _CONFIGURATION.read(path)
        except Damaged as error:
            value = next((spec["configuration"] for spec in self._specs() if "configuration" in spec), None)
            if value is None:
                raise
            note_damage(path, error.reason, "what its runs were asked counts instead")
        if value is None:
            raise ValueError(f"{self.path} is not a configuration of a sweep: it has no configuration.json")
        return value

    def method_name(self) -> str:
        """The method's name in configuration.json; where that does not say it, by the key."""
        try:
            return str((read_json(self.path / "configuration.json") or {})["method"]["name"])
        except (Damaged, KeyError, TypeError):
            return self.method

    def _specs(self) -> Iterator[Record]:
        return (spec for run in self.runs() if (spec := run.read("spec")))

    def status(self) -> Record:
        """status.json; running before the first was written, and where it is damaged, which is said once."""
        path = self.path / "status.json"
        try:
            found = _STATUS.read(path)
        except Damaged as error:
            note_damage(path, error.reason, "the configuration counts as not over; the next start looks at its runs")
            found = None
        return found or {"status": "running"}

    def write_status(
        self, status: str, seeds_done: list[int], objective: float | None = None, reason: str | None = None
    ) -> None:
        """Write status.json: running, finished, pruned, failed or diverged; objective is the mean over seeds."""
        assert status in ("running", *FINAL), status
        value = {"status": status, "reason": reason, "objective": objective, "seeds_done": seeds_done}
        write_json(self.path / "status.json", value)

    def run(self, seed: int) -> RunFolder:
        """The run of a seed, whether or not it has begun."""
        return RunFolder(self.path / f"seed-{seed}")

    def runs(self) -> list[RunFolder]:
        """The runs that have begun, by seed."""
        found = (_SEED_FOLDER.fullmatch(child.name) for child in self.path.iterdir())
        return [self.run(seed) for seed in sorted(int(match.group(1)) for match in found if match)]

    def results(self) -> list[Record]:
        """The results of the runs of the search that are over, by seed."""
        found = (run.result() for run in self.runs())
        return [result for result in found if result and result.get("stage") != CONFIRMATION]


@dataclass(frozen=True)
class SweepFolder:
    """The record of a sweep, written by the driver."""

    path: Path

    def create(self, spec: Mapping[str, Any]) -> None:
        """Make the folder and write spec.json, the resolved sweep."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "spec.json", spec)

    def exists(self) -> bool:
        """Whether a sweep has been begun here."""
        return (self.path / "spec.json").exists()

    def spec(self) -> Record:
        """The resolved sweep; ValueError when the folder holds none."""
        spec = read_json(self.path / "spec.json")
        if spec is None:
            raise ValueError(f"{self.path} is not a sweep: it has no spec.json. Give the folder <output>/<sweep name>")
        return spec

    def base(self) -> Record | None:
        """Accuracy of the base model; None until it was measured, and where it is damaged, which is said once."""
        found = self._measured("base.json", _BASE)
        if found is not None and not _ACCURACIES(found):
            note_damage(self.path / "base.json", "holds no accuracies", _MEASURED_AGAIN)
            return None
        return found

    def _measured(self, name: str, shape: Shape) -> Record | None:
        try:
            return shape.read(self.path / name)
        except Damaged as error:
            note_damage(error.path, error.reason, _MEASURED_AGAIN)
            return None

    def base_text_loss(self) -> float | None:
        """The base model's loss of general text; None where none was measured."""
        loss: float | None = (self._measured("base_text.json", _TEXT) or {}).get("text_loss")
        return loss

    def write_base(
        self,
        accuracy: Mapping[str, Any],
        correct: Mapping[str, Any],
        outputs: Mapping[str, Any],
        text_loss: float | None,
    ) -> None:
        """Write what was measured of the base model: base.json, the accuracies, last, for it says that all is there."""
        write_json(self.path / "base_correct.json", correct)
        write_json(self.path / "base_outputs.json", outputs)
        write_json(self.path / "base_text.json", {"text_loss": text_loss})
        write_json(self.path / "base.json", accuracy)

    def configuration(self, key: str) -> ConfigurationFolder:
        """The configuration of that key, whether or not it has begun."""
        return ConfigurationFolder(self.path / key)

    def configurations(self) -> list[ConfigurationFolder]:
        """The configurations that have begun, by key."""
        return [ConfigurationFolder(path.parent) for path in sorted(self.path.glob("*/configuration.json"))]

    def unfinished(self) -> list[str]:
        """Keys of the configurations that have begun and are not over."""
        return [each.key for each in self.configurations() if each.status()["status"] not in FINAL]

    def run(self, key: str, seed: int) -> RunFolder:
        """The run of a configuration and seed, whether or not it has begun."""
        return self.configuration(key).run(seed)

    def runs(self) -> Iterator[RunFolder]:
        """The runs that have begun, by configuration and seed; their files are read when asked for."""
        for configuration in self.configurations():
            yield from configuration.runs()

    def results(self) -> list[Record]:
        """The results of all runs that are over, from the run folders."""
        return [result for run in self.runs() if (result := run.result())]

    def rebuild_results(self) -> None:
        """Write results.jsonl, one flat line a run, from the run folders."""
        with locked(self._listing):
            write_lines(self.path / _LISTING, (flatten(result) for run in self.runs() if (result := run.result())))

    def append_result(self, run: RunFolder) -> None:
        """Add a run that is over to results.jsonl; a retried run replaces its line."""
        result = run.result()
        assert result is not None, f"{run.path} is not over"
        with locked(self._listing):
            if run.attempt() == 1 or not self._lists(run):
                append_line(self.path / _LISTING, flatten(result))
                return
        self.rebuild_results()

    @property
    def _listing(self) -> Path:
        """Its lock: each trial is a process of its own, and one that replaces the file must not lose another's line."""
        return self.path / ".results.lock"

    def listed(self) -> list[Record]:
        """The lines of results.jsonl, those of another shape left out: it is derived, and each start writes it."""
        lines = read_lines(self.path / _LISTING)
        return [line for line in lines if {"configuration", "seed", "method"} <= line.keys() and not wrong_result(line)]

    def _lists(self, run: RunFolder) -> bool:
        return any((line["configuration"], line["seed"]) == (run.configuration, run.seed) for line in self.listed())
