"""Sweeps of thousands of configurations in one slot that trains nothing: what each costs beside its training.

Search, Tune trials, run folders, results.jsonl and the MLflow mirror are as shipped. Each row has its own process.
"""

import multiprocessing
import os
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

SIZES, QUICK_SIZES = (1_000, 10_000), (20,)
SUGGESTIONS = 20
_SPACE = {
    "training.learning_rate": {"log": [1e-5, 1e-3]},
    "method.density": {"log": [1e-3, 0.1]},
    "method.selection_ratio": {"linear": [0.05, 1.0]},
}


def measure(quick: bool) -> list[dict[str, Any]]:
    """A row for each number of configurations; for the smallest, TPE and bare Tune beside it."""
    sizes = QUICK_SIZES if quick else SIZES
    rows = [_printed(_in_a_process(sweep, size)) for size in sizes]
    return [*rows, _printed(_in_a_process(tpe, sizes[0])), _printed(_in_a_process(bare_tune, sizes[0]))]


def _printed(row: dict[str, Any]) -> dict[str, Any]:
    print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return row


def _in_a_process(work: Callable[[int, Path], dict[str, Any]], size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        pool = multiprocessing.get_context("spawn").Pool(1)
        try:
            return {"what": work.__name__, "configurations": size, **pool.apply(work, (size, Path(folder)))}
        finally:
            pool.close()  # and not terminate(): the sweep takes its signal for an interruption
            pool.join()


def sweep(size: int, output: Path) -> dict[str, Any]:
    """A random search from beginning to end, MLflow included, and the same command again."""
    from benchmarks.simulated import start_simulated_pool
    from gallop_ray.sweep import driver

    asked, memory = _sweep(size, output, "random"), _Memory()
    with mock.patch.object(driver, "start_pool", start_simulated_pool):
        folder = driver.run_sweep(asked)
        ended = time.time()
        driver.run_sweep(asked)
        resumed = time.time()
    configurations = folder.configurations()
    results = [run.path / "result.json" for run in folder.runs()]
    begun = min((each.path / "configuration.json").stat().st_mtime for each in configurations)
    return {
        "seconds_per_configuration": round((ended - begun) / size, 4),
        "without_mlflow_backlog": round((max(path.stat().st_mtime for path in results) - begun) / size, 4),
        "resume_seconds": round(resumed - ended, 2),
        "memory_growth": memory.growth(min(path.stat().st_mtime for path in results), ended),
        "results": len((folder.path / "results.jsonl").read_text().splitlines()),
        "mlflow": _in_mlflow(output / "mlflow.db"),
    }


def tpe(size: int, output: Path) -> dict[str, Any]:
    """A suggestion of TPE after so many results; what is on disk then is a random search's."""
    from gallop_ray.records.folders import SweepFolder
    from gallop_ray.search.study import Studies

    folder = SweepFolder(output / "scale")
    folder.path.mkdir()
    studies = Studies(_sweep(size, output, "random"), folder)
    while (key := studies.next()) is not None:
        _end(folder, key)
        studies.tell(key)
    studies = Studies(_sweep(size + SUGGESTIONS, output, "tpe"), folder)
    begun = time.perf_counter()
    for _ in range(SUGGESTIONS):
        assert studies.next()
    return {"seconds_per_suggestion": round((time.perf_counter() - begun) / SUGGESTIONS, 4)}


def bare_tune(size: int, output: Path) -> dict[str, Any]:
    """Tune alone on trials that do nothing, Optuna's random search beside it with a journal."""
    import optuna
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from gallop_ray.slots.cluster import connect
    from gallop_ray.slots.ray_address import find_ray

    connect(find_ray(), verbose=False)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    backend = optuna.storages.journal.JournalFileBackend(str(output / "journal"))
    search = OptunaSearch(
        {"rate": optuna.distributions.FloatDistribution(1e-5, 1e-3, log=True)},
        metric="score",
        mode="max",
        sampler=optuna.samplers.RandomSampler(seed=0),
        storage=optuna.storages.JournalStorage(backend),
    )
    tuner = tune.Tuner(
        tune.with_resources(_nothing(), {"CPU": 0.001}),
        tune_config=tune.TuneConfig(search_alg=search, num_samples=size, max_concurrent_trials=1, reuse_actors=True),
        run_config=tune.RunConfig(name="bare", storage_path=str(output / "ray"), verbose=0),
    )
    begun = time.perf_counter()
    tuner.fit()
    return {"seconds_per_configuration": round((time.perf_counter() - begun) / size, 4)}


def _nothing() -> Any:
    """A Trainable that ends at once. Made here, because Ray is only imported where it is measured."""
    from ray import tune

    class Nothing(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self._rate = config["rate"]

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._rate = new_config["rate"]
            return True

        def step(self) -> dict[str, Any]:
            return {"score": self._rate, "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            pass

        def load_checkpoint(self, checkpoint: Any) -> None:
            pass

    return Nothing


def _sweep(size: int, output: Path, sampler: str) -> Any:
    from benchmarks.simulated import OTHER, TASK
    from gallop_ray.spec.schema import Sweep

    os.environ.pop("MLFLOW_TRACKING_URI", None)
    return Sweep.model_validate(
        {
            "name": "scale",
            "output": str(output),
            "model": {"name": "pocket"},
            "data": {"root": "generated", "train": TASK, "ood": [OTHER]},
            "methods": [{"type": "gallop"}],
            "search": {"sampler": sampler, "space": _SPACE},
            "budget": {"configurations": size},
            "resources": {"slots": 1},
        }
    )


def _end(folder: Any, key: str) -> None:
    configuration = folder.configuration(key)
    run, rate = configuration.run(0), configuration.configuration().training["learning_rate"]
    run.start({}, "slot-0")
    run.finish({"configuration": key, "seed": 0, "status": "finished", "val_mean_accuracy": 500 * rate})
    configuration.write_status("finished", [0], 500 * rate)


def _in_mlflow(database: Path) -> dict[str, int]:
    with sqlite3.connect(database) as connection:
        return dict(Counter(status for (status,) in connection.execute("select status from runs")))


class _Memory:
    """What this process holds, looked at twice a second."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        process = psutil.Process()
        while True:
            self._seen.append((time.time(), process.memory_info().rss))
            time.sleep(0.5)

    def growth(self, begun: float, ended: float) -> int:
        """The most bytes held between two points in time, beyond those held at the first."""
        held = [size for when, size in self._seen if begun <= when <= ended]
        return max(held) - held[0] if held else 0
