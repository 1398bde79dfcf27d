"""From the last event of one configuration to the first forward pass of the next, in a warm slot and between trials."""

import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.arms import Measured
from benchmarks.report import row
from benchmarks.sweeps import Ran, run_ours, run_rival
from gallop_ray.analysis.timing import switch_seconds

CONFIGURATIONS, TRIALS = 12, 5
QUICK_CONFIGURATIONS, QUICK_TRIALS = 3, 2


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row."""
    configurations, trials = (QUICK_CONFIGURATIONS, QUICK_TRIALS) if quick else (CONFIGURATIONS, TRIALS)
    with tempfile.TemporaryDirectory() as place:
        ours = run_ours(Path(place), _sweep(configurations))
        theirs = run_rival(Path(place), "benchmarks.tune_trials", ours, trials)
        found = row(_middle(ours), "Tune, a TorchTrainer per trial", _middle(theirs), model="pocket")
    print(f"longest: {found['longest']:.3f} s / {found['other_longest']:.3f} s", flush=True)
    return [found]


def _sweep(configurations: int) -> dict[str, Any]:
    """GaLLoP at one selection ratio, so that scores can be shared; runs of about a second."""
    return {
        "name": "switch",
        "model": {"name": "pocket"},
        "data": {
            "root": "generated",
            "train": "range",
            "limits": {"train": 512, "validation": 64, "test": 64},
        },
        "methods": [{"type": "gallop", "selection_ratio": 0.25}],
        "objective": {"metric": "val_id_accuracy"},
        "search": {
            "sampler": "random",
            "space": {"gallop.density": {"log": [0.001, 0.05]}, "training.learning_rate": {"log": [1e-4, 1e-2]}},
        },
        "budget": {"configurations": configurations},
        "training": {"steps": 16, "max_length": 32, "micro_batch_size": 32},
        "evaluation": {"generate": False},
        "resources": {"cpus_per_worker": 1},
    }


def _middle(ran: Ran) -> Measured:
    switches = switch_seconds(ran.folder)
    seconds = statistics.median(switches)
    return Measured(seconds, ran.bytes, {"longest": max(switches), "switches": len(switches)})
