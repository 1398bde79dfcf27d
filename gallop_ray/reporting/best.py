"""What `gallop-ray best` says of the best configurations: how good, which settings, where the adapter is."""

import yaml

from gallop_ray.analysis.edges import edges_of
from gallop_ray.analysis.ranking import Summary, best, best_run
from gallop_ray.analysis.statistics import sweep_statistics
from gallop_ray.records.files import Record
from gallop_ray.records.folders import SweepFolder
from gallop_ray.reporting.status import opened
from gallop_ray.spec.plain_yaml import Dumper
from gallop_ray.spec.schema import ObjectiveSpec, Sweep

_TEST_METRICS = ("id_accuracy", "ood_accuracy", "forget_ratio", "collapse_rate")


def print_best(directory: str, of_each_method: bool) -> None:
    """Print the best configuration of a sweep, or of each of its methods. ValueError before there is one."""
    folder, sweep = opened(directory)
    found = best(folder.results(), sweep.objective)
    if not found:
        raise ValueError(
            f"no configuration of {folder.path} has finished without a failed run; see `gallop-ray status {directory}`"
        )
    print("\n\n".join(_described(folder, sweep, each) for each in found[: None if of_each_method else 1]))
    if verdict := sweep_statistics(folder, sweep).verdict:
        print(f"\n{verdict.text}")


def _described(folder: SweepFolder, sweep: Sweep, best: Summary) -> str:
    objective = sweep.objective
    names = dict.fromkeys([objective.metric, *_TEST_METRICS])
    metrics = [f"  {name}: {_measured(*best.over_seeds(name))}" for name in names]
    settings = folder.configuration(best.configuration).configuration()
    return "\n".join(
        [
            f"{best.configuration}, mean ± standard deviation over {len(best.finished)} seeds:",
            *metrics,
            *(f"at an edge: {edge}" for found in edges_of(folder, sweep, [best]).values() for edge in found),
            "\n# its settings, for a sweep file",
            _yaml({"methods": [settings["method"]], "training": _without_unused(settings["training"])}),
            *_adapter(folder, best, objective),
        ]
    )


def _without_unused(training: Record) -> Record:
    """Either steps or epochs, whichever count."""
    unused = "steps" if training.get("steps") is None else "epochs"
    return {name: value for name, value in training.items() if name != unused}


def _measured(mean: float | None, std: float | None) -> str:
    if mean is None:
        return "not measured"
    return f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}") + " %"


def _yaml(settings: Record) -> str:
    return yaml.dump(settings, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def _adapter(folder: SweepFolder, best: Summary, objective: ObjectiveSpec) -> list[str]:
    """The adapter of the seed that validates best, among those that are still there."""
    run = best_run(folder, best, objective)
    if run is None:
        return ["adapter: none is there any more"]
    there = [part for part in run.parts() if part.adapter.exists()]
    lines = [(f"adapter: {each.adapter}", f"gallop-ray export {each.path} --to merged") for each in there]
    return [line for pair in lines for line in pair]
