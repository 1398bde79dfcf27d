"""How much work an answer takes: the best configuration of 32, by ours, by plain Tune, and by running everything.

Every arm searches density, selection ratio and learning rate of GaLLoP on the pocket model, once for each search seed.
What an arm chose is worth its validation objective over all seeds, trained to the end; the truth is the best of 32
configurations that all ran so. Ours is asha with TPE, as a sweep file that names no sampler has it. Random search is
the first of the truth's configurations, as many as fit into the steps that ours took.
"""

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.sweeps import Ran, run_ours, run_rival
from gallop_ray.records.folders import ConfigurationFolder
from gallop_ray.records.run_folder import RunFolder

SEEDS, SEARCHES = 3, 5
METRIC = "val_mean_accuracy"
TUNE = "benchmarks.tune_search"
TRUTH, OURS = "everything to its end", "ours"


@dataclass(frozen=True)
class Size:
    """What is searched, and how large a run is; both cores have a slot, in every arm."""

    configurations: int
    steps: int
    model: str = "pocket"
    dtype: str = "float32"
    batch: int = 32
    length: int = 32
    data: Mapping[str, Any] = field(
        default_factory=lambda: {
            "root": "generated",
            "train": "range",
            "ood": ["max", "min", "first", "last", "third"],
        }
    )
    validation: int = 128
    rates: tuple[float, float] = (1e-4, 3e-2)


POCKET, QUICK = Size(32, 120), Size(4, 9)


@dataclass(frozen=True)
class Answer:
    """What an arm chose: its objective (mean over seeds, and standard error), and what the search took."""

    value: float
    error: float
    steps: int
    seconds: float


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each arm and search seed, and one for each arm's medians."""
    return compared(QUICK if quick else POCKET, 1 if quick else SEARCHES)


def compared(size: Size, searches: int) -> Iterator[dict[str, Any]]:
    """As `measure`, of one size."""
    rows = []
    for search in range(searches):
        with tempfile.TemporaryDirectory() as place:
            found = [_row(name, search, each) for name, each in answers(Path(place), search, size).items()]
        rows += found
        yield from found
    yield from summary(rows)


def answers(place: Path, search: int, size: Size) -> dict[str, Answer]:
    """Every arm's answer with one search seed."""
    truth = run_ours(_folder(place, "truth"), document(search, size, sampler="random"))
    ours = run_ours(_folder(place, "ours"), document(search, size, sampler="tpe", pruning={"type": "asha"}))
    tune = run_rival(_folder(place, "tune"), TUNE, ours, configurations=0)
    found = {TRUTH: answer(truth), OURS: answer(ours), "Tune, ASHA and Optuna": answer(tune)}
    as_many = max(1, found[OURS].steps // (SEEDS * size.steps))
    share = as_many / len(truth.folder.configurations())
    first = Ran(truth.seconds * share, truth.folder)
    return {**found, "random, as many steps as ours": answer(first, as_many)}


def document(search: int, size: Size, sampler: str, **fields: Any) -> dict[str, Any]:
    """The sweep file of an arm."""
    return {
        "name": "answer",
        "model": {"name": size.model, "dtype": size.dtype},
        "data": {
            **size.data,
            "limits": {"train": 2000, "validation": size.validation, "test": size.validation // 2},
        },
        "methods": [{"type": "gallop"}],
        "seeds": SEEDS,
        "objective": {"metric": METRIC},
        "search": {
            "sampler": sampler,
            "seed": search,
            "space": {
                "gallop.density": {"log": [1e-3, 1e-1]},
                "gallop.selection_ratio": {"choice": [0.05, 0.2, 1.0]},
                "gallop.training.learning_rate": {"log": list(size.rates)},
            },
        },
        "budget": {"configurations": size.configurations},
        "training": {
            "steps": size.steps,
            "batch_size": size.batch,
            "micro_batch_size": size.batch,
            "max_length": size.length,
        },
        "evaluation": {"batch_size": 2 * size.batch, "generate": False, "max_new_tokens": 4},
        "resources": {"cpus_per_worker": 1, "slots": 2},
        **fields,
    }


def answer(ran: Ran, first: int | None = None) -> Answer:
    """What a finished search chose, of its first configurations where not all count."""
    asked = ran.folder.configurations()[:first]
    whole = [each for each in asked if len(_values(each)) == SEEDS]
    best = max(whole, key=lambda each: statistics.fmean(_values(each)))
    values = _values(best)
    error = statistics.stdev(values) / len(values) ** 0.5
    return Answer(statistics.fmean(values), error, steps_of(asked), ran.seconds)


def _values(configuration: ConfigurationFolder) -> list[float]:
    found = [each.value(METRIC) for each in configuration.results() if each.finished]
    return [each for each in found if each is not None]


def steps_of(configurations: list[ConfigurationFolder]) -> int:
    """The optimizer steps that were taken, those of paused and pruned runs included."""
    return sum(_steps(run) for each in configurations for run in each.runs())


def _steps(run: RunFolder) -> int:
    result = run.result()
    return result.steps or 0 if result else max((each.step for each in run.rungs().rungs), default=0)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each arm: the median share of the truth's steps and time, and how often it was within a standard error."""
    truths = {each["search"]: each for each in rows if each["against"] == TRUTH}
    made = []
    for name in dict.fromkeys(each["against"] for each in rows):
        mine = [(each, truths[each["search"]]) for each in rows if each["against"] == name]
        made.append(
            {
                "against": name,
                "search": "median",
                "steps_share": statistics.median(each["steps"] / truth["steps"] for each, truth in mine),
                "time_share": statistics.median(each["seconds"] / truth["seconds"] for each, truth in mine),
                "within": sum(each["value"] >= truth["value"] - truth["error"] for each, truth in mine),
                "searches": len(mine),
            }
        )
        print(made[-1], flush=True)
    return made


def _row(name: str, search: int, found: Answer) -> dict[str, Any]:
    print(f"search {search} | {name}: {found}", flush=True)
    return {"against": name, "search": search, **found.__dict__}


def _folder(place: Path, name: str) -> Path:
    (place / name).mkdir()
    return place / name
