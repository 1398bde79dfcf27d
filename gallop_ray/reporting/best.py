"""The output of `gallop-ray best`: metrics, settings and adapters of the best configurations."""

import yaml

from gallop_ray.analysis.best import Best, as_sweep_file, best_of_methods
from gallop_ray.analysis.diagnoses import diagnoses
from gallop_ray.analysis.statistics import sweep_statistics
from gallop_ray.disk.bucket.address import address_of
from gallop_ray.records.stored import open_sweep
from gallop_ray.spec.metrics import shown_value, unit_of
from gallop_ray.spec.plain_yaml import Dumper


def print_best(directory: str, of_each_method: bool, as_yaml: bool = False) -> None:
    """Print the best configuration of a sweep, or of each of its methods. Raises ValueError before there is one."""
    stored = open_sweep(directory)
    folder, sweep = stored.folder, stored.sweep
    found = best_of_methods(folder, sweep)
    if not found:
        where = address_of(folder.path)
        raise ValueError(
            f"no configuration of {where} has finished without a failed run; see `gallop-ray status {directory}`"
        )
    if as_yaml:
        print(yaml.dump(as_sweep_file(found[0], sweep), Dumper=Dumper, sort_keys=False, allow_unicode=True), end="")
        return
    print("\n\n".join(map(_described, found[: None if of_each_method else 1])))
    if verdict := sweep_statistics(folder, sweep).verdict:
        print(f"\n{verdict.text}")
    for each in diagnoses(folder, sweep):
        print(f"{each.kind}: {each.text}")


def _described(best: Best) -> str:
    return "\n".join(
        [
            f"{best.configuration}, mean ± standard deviation over {best.seeds} seeds:",
            *(f"  {name}: {_measured(name, *measured)}" for name, measured in best.metrics.items()),
            "\n# its settings, for a sweep file",
            yaml.dump(best.settings, Dumper=Dumper, sort_keys=False, allow_unicode=True),
            *_adapters(best),
        ]
    )


def _measured(name: str, mean: float | None, std: float | None) -> str:
    if mean is None:
        return "not measured"
    return f"{shown_value(name, mean, std, between=' ± ')} {unit_of(name)}"


def _adapters(best: Best) -> list[str]:
    if not best.adapters:
        return ["adapter: none is left"]
    places = [(address_of(each), address_of(each.parent)) for each in best.adapters]
    lines = [(f"adapter: {file}", f"gallop-ray export {run} --to merged") for file, run in places]
    return [line for pair in lines for line in pair]
