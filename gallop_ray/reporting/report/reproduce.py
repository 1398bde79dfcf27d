"""Everything that is needed to run the sweep again."""

from gallop_ray.records.files import Record
from gallop_ray.reporting.report.material import ReportData
from gallop_ray.spec.load import resolved_yaml
from gallop_ray.spec.schema import Sweep

_MACHINE = ("platform", "hostname", "cpu_count", "gpus", "git_commit")


def facts(material: ReportData) -> list[tuple[str, str]]:
    """Terms with their values."""
    sweep, environment = material.sweep, material.environment()
    found = [
        ("Command", f"gallop-ray run {sweep.name}.yaml, with the sweep file below"),
        ("Model", _model(sweep)),
        ("Data", _data(sweep)),
        ("Seeds", ", ".join(map(str, sweep.seeds))),
    ]
    if sweep.confirmation:
        found.append(("Fresh seeds", ", ".join(map(str, sweep.confirmation.seeds))))
    found.append(("Objective", " and ".join(sweep.objective.all_metrics)))
    return [*found, *(_environment(environment) if environment else [])]


def _environment(environment: Record) -> list[tuple[str, str]]:
    versions = [f"{name} {value}" for name, value in environment.items() if name not in _MACHINE and value]
    gpus = environment.get("gpus") or ["no GPU"]
    return [
        ("Versions", ", ".join(versions)),
        ("Git commit of the working folder", environment.get("git_commit") or "not a git repository"),
        ("Hardware", f"{environment.get('cpu_count')} CPU cores, {', '.join(gpus)}, {environment.get('platform')}"),
    ]


def _model(sweep: Sweep) -> str:
    revision = f", revision {sweep.model.revision}" if sweep.model.revision else ""
    delta = f" with the delta {sweep.model.delta}" if sweep.model.delta else ""
    return f"{sweep.model.name}{revision}{delta}, {sweep.model.dtype}"


def _data(sweep: Sweep) -> str:
    others = f"; forgetting measured on {', '.join(sweep.data.ood)}" if sweep.data.ood else ""
    used = (*sweep.data.read_tasks, *sweep.data.ood)
    replay = f", {100 * sweep.data.replay.share:g} % of it {sweep.data.replay.task}" if sweep.data.replay else ""
    kept = f", held by EWC to {sweep.data.fisher.task}" if sweep.data.fisher else ""
    sources = dict.fromkeys(sweep.data.task(name).source or sweep.data.root for name in used)
    return f"{', '.join(sources)}, trained on {' and '.join(sweep.data.train_tasks)}{replay}{kept}{others}"


def sweep_yaml(sweep: Sweep) -> str:
    """The resolved sweep file."""
    return resolved_yaml(sweep)
