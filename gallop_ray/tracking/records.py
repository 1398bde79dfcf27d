"""The records of a sweep: folders that are its truth.

Times are seconds (points in time: since 1970), sizes bytes. Below <output>/<sweep name>/ there are

- spec.json, base.json, base_correct.json, base_outputs.json, base_text.json, results.jsonl, masks.json, masks.png,
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

from filelock import FileLock

from gallop_ray.tracking.files import Record, append_line, read_json, read_lines, write_json, write_lines
from gallop_ray.tracking.runs import RunFolder
from gallop_ray.tracking.summary import flatten

SEARCH, CONFIRMATION = "search", "confirmation"
"""The stage of a run: with a seed of the sweep, or after the search with a fresh one."""
FINAL = ("finished", "pruned", "failed", "diverged")
MASK_REPORT = ("masks.json", "masks.png")
"""What a finished sweep says of its masks."""
PAGE = "report/report.html"
"""The report, in the sweep's folder."""
VERDICT = "report/verdict.txt"
"""The report's verdict in plain words."""
_LISTING = "results.jsonl"
_SEED_FOLDER = re.compile(r"seed-(\d+)")


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
        if not (self.path / "configuration.json").exists():
            write_json(self.path / "configuration.json", configuration)

    def configuration(self) -> Record:
        """configuration.json; ValueError when it is not there."""
        value = read_json(self.path / "configuration.json")
        if value is None:
            raise ValueError(f"{self.path} is no configuration of a sweep: it has no configuration.json")
        return value

    def status(self) -> Record:
        """status.json; {"status": "running"} before the first was written."""
        return read_json(self.path / "status.json") or {"status": "running"}

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
            raise ValueError(f"{self.path} is no sweep: it has no spec.json. Give the folder <output>/<sweep name>")
        return spec

    def base(self) -> Record | None:
        """Accuracy of the base model; None until it was measured."""
        return read_json(self.path / "base.json")

    def base_text_loss(self) -> float | None:
        """The base model's loss of general text; None where none was measured."""
        return (read_json(self.path / "base_text.json") or {}).get("text_loss")

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
        with self._listing():
            write_lines(self.path / _LISTING, (flatten(result) for run in self.runs() if (result := run.result())))

    def append_result(self, run: RunFolder) -> None:
        """Add a run that is over to results.jsonl; a retried run replaces its line."""
        result = run.result()
        assert result is not None, f"{run.path} is not over"
        with self._listing():
            if run.attempt() == 1 or not self._lists(run):
                append_line(self.path / _LISTING, flatten(result))
                return
        self.rebuild_results()

    def _listing(self) -> FileLock:
        """Each trial is a process of its own: one that writes the file anew must not lose another's line."""
        return FileLock(self.path / ".results.lock")

    def _lists(self, run: RunFolder) -> bool:
        lines = read_lines(self.path / _LISTING)
        return any((line["configuration"], line["seed"]) == (run.configuration, run.seed) for line in lines)
