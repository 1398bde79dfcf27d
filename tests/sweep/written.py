"""Sweep folders as a sweep writes them, made by hand."""

from pathlib import Path
from typing import Any

from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.spec.configuration import asked, configuration_key, resolve
from gallop_ray.spec.schema import Sweep


def small_sweep(tmp: Path, **changes: Any) -> Sweep:
    """gallop with two learning rates and random with one, two seeds each."""
    return Sweep.model_validate(
        {
            "name": "small",
            "output": str(tmp),
            "model": {"name": "pocket"},
            "data": {"root": "generated", "train": "range", "ood": ["max"]},
            "methods": [{"type": "gallop"}, {"type": "random"}],
            "seeds": [0, 1],
            "search": {"space": {"gallop.training.learning_rate": {"choice": [0.1, 0.2]}}},
            **changes,
        }
    )


class Written:
    """A sweep folder and what is written into it."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.folder = sweep, SweepFolder(Path(sweep.output) / sweep.name)
        self.folder.create(sweep.model_dump(mode="json"))

    def begin(self, method: str, rate: float, seed: int, slot: str = "slot-0") -> RunFolder:
        """A run under way."""
        configuration = resolve(self.sweep, method, {"training.learning_rate": rate})
        key = configuration_key(configuration)
        self.folder.configuration(key).create(configuration.model_dump(mode="json"))
        run = self.folder.run(key, seed)
        run.start({"configuration": configuration.model_dump(mode="json"), **asked(configuration, seed)}, slot)
        return run

    def end(self, run: RunFolder, accuracy: float | None = 0.5, status: str = "finished", seconds: float = 60) -> None:
        """The run is over; with the last seed, or a failure, the configuration too."""
        spec = run.read("spec")
        assert spec is not None
        run.finish(
            {
                **{name: spec[name] for name in ("seed", "method", "method_type", "learning_rate")},
                "configuration": run.configuration,
                "status": status,
                "reason": None if status == "finished" else f"[/tcp/pair.cc:5] it {status}",
                "val_mean_accuracy": accuracy,
                "id_accuracy": accuracy,
                "seconds": {"total": seconds},
            }
        )
        configuration = self.folder.configuration(run.configuration)
        done = [result.seed for result in configuration.results() if result.finished]
        over = status if status != "finished" else "finished" if len(done) == len(self.sweep.seeds) else "running"
        configuration.write_status(over, done, accuracy if over != "running" else None)
