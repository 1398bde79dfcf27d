"""Sweep folders with everything in them that a report shows, made by hand."""

import random
from pathlib import Path
from typing import Any

from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.spec.configuration import asked, configuration_key, resolve
from gallop_ray.spec.schema import Sweep

NASTY = "lost </script><script>alert(1)</script> & 50 % of $HOME_x\\{}\nand more"
_TASKS = ("range", "max", "min")
_MATRICES = {f"model.layers.{layer}.{name}": 100 for layer in (0, 1) for name in ("self_attn.q_proj", "mlp.up_proj")}


def reported_sweep(tmp: Path, seeds: int = 3) -> Sweep:
    """Two masks at three densities and two learning rates, and one LoRA."""
    return Sweep.model_validate(
        {
            "name": "reported",
            "output": str(tmp),
            "model": {"name": "pocket"},
            "data": {"root": "generated", "train": "range", "ood": ["max", "min"]},
            "methods": [{"type": "gallop"}, {"type": "random", "name": "random_mask"}, {"type": "lora"}],
            "seeds": seeds,
            "search": {
                "space": {
                    "method.density": {"choice": [0.01, 0.1, 0.2]},
                    "training.learning_rate": {"choice": [0.001, 0.01]},
                }
            },
            "tracking": {"uri": "https://user:secret@example.org/mlflow"},
        }
    )


def begin(folder: SweepFolder, sweep: Sweep, method: str, values: dict[str, float], seed: int) -> RunFolder:
    """A run under way, with a few logged steps."""
    configuration = resolve(sweep, method, values)
    written = configuration.model_dump(mode="json")
    key = configuration_key(configuration)
    folder.configuration(key).create(written)
    run = folder.run(key, seed)
    run.start({"configuration": written, **asked(configuration, seed)}, "slot-0")
    run.write("environment", {"python": "3.11.7", "torch": "2.13.0", "cpu_count": 8, "gpus": ["One GPU, 80 GiB"],
                              "platform": "Linux", "git_commit": "0123abcd"})  # fmt: skip
    for step in (1, 2, 3):
        run.event("step", step=step, steps=3, loss=3.0 / step)
    return run


def finish(run: RunFolder, accuracy: float, density: float | None) -> None:
    """The run ends well; what it measured follows from `accuracy` and its seed."""
    spec = run.read("spec")
    assert spec is not None
    drawn = random.Random(f"{run.configuration} {run.seed}")
    tasks = {task: {"test": {"likelihood": accuracy - 0.05 * drawn.random()}} for task in _TASKS}
    ood = (tasks["max"]["test"]["likelihood"] + tasks["min"]["test"]["likelihood"]) / 2
    if density:
        counts = {name: [int(density * size), size] for name, size in _MATRICES.items()}
        run.write("mask", {"chosen": sum(chosen for chosen, _ in counts.values()), "matrices": counts})
    run.finish(
        {
            **{name: spec[name] for name in ("seed", "method", "method_type", "learning_rate", "selection_ratio")},
            **{"configuration": run.configuration, "stage": "search", "status": "finished", "reason": None},
            **{"trained_parameters": 1_234_567, "density": density, "peak_memory_bytes": 783_319_040},
            **{"id_accuracy": tasks["range"]["test"]["likelihood"], "ood_accuracy": ood, "collapse_rate": 0.0},
            **{"forget_ratio": max(0.0, 1 - ood / 0.95), "val_mean_accuracy": accuracy, "tasks": tasks},
            "seconds": {"scoring": 1.0, "training": 10.0 + drawn.random(), "evaluating": 3.0, "total": 15.0},
        }
    )
    run_ends(run, "finished")


def run_ends(run: RunFolder, status: str, reason: str | None = None) -> None:
    """Its configuration has ended so."""
    from gallop_ray.records.folders import ConfigurationFolder

    ConfigurationFolder(run.path.parent).write_status(status, [run.seed], None, reason)


def write_sweep(tmp: Path, **changes: Any) -> tuple[SweepFolder, Sweep]:
    """A sweep that is over, all runs finished; gallop is better than random_mask, lora between them."""
    sweep = reported_sweep(tmp, **changes)
    folder = SweepFolder(tmp / sweep.name)
    folder.create(sweep.model_dump(mode="json"))
    base = {task: {"test": {"likelihood": 0.2 if task == "range" else 0.95}} for task in _TASKS}
    folder.write_base(base, {}, {}, None)
    for seed in sweep.seeds:
        for rate in (0.001, 0.01):
            for density in (0.01, 0.1, 0.2):
                for method, level in (("gallop", 0.8), ("random_mask", 0.5)):
                    values = {"method.density": density, "training.learning_rate": rate}
                    finish(begin(folder, sweep, method, values, seed), level + density / 2 - rate, density)
            finish(begin(folder, sweep, "lora", {"training.learning_rate": rate}, seed), 0.65 - rate, None)
    folder.rebuild_results()
    return folder, sweep


def write_half_failed_sweep(tmp: Path) -> tuple[SweepFolder, Sweep]:
    """One method has a finished run, one failed and one goes on; the others have not begun."""
    sweep = reported_sweep(tmp)
    folder = SweepFolder(tmp / sweep.name)
    folder.create(sweep.model_dump(mode="json"))
    values = {"training.learning_rate": 0.001, "method.density": 0.1}
    finish(begin(folder, sweep, "gallop", values, 0), 0.7, 0.1)
    failed = begin(folder, sweep, "gallop", values, 1)
    spec = failed.read("spec")
    assert spec is not None
    del spec["configuration"]
    failed.finish({**spec, "configuration": failed.configuration, "stage": "search", "status": "failed",
                   "failure": "lost", "reason": NASTY})  # fmt: skip
    run_ends(failed, "failed", NASTY)
    begin(folder, sweep, "random_mask", values, 0)
    folder.rebuild_results()
    return folder, sweep
