"""Ends a configuration: after its last seed, before it, or in the middle of its first one, where it waits at a rung."""

from gallop_ray.records.folders import ConfigurationFolder, SweepFolder
from gallop_ray.records.results import SEARCH, JudgedAt
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.records.summary import objective_value
from gallop_ray.spec.configuration import asked
from gallop_ray.spec.registry import STORED
from gallop_ray.spec.schema import Configuration, Sweep


def give_up(sweep: Sweep, folder: SweepFolder, configuration: ConfigurationFolder, reason: str) -> None:
    """Write that a configuration is pruned, and first, as the result of a run that was paused, where that stopped."""
    for run in configuration.runs():
        if run.seed in sweep.seeds and run.result() is None and (rungs := run.rungs().rungs):
            _stop(folder, configuration, run, max(rungs, key=lambda each: each.step), reason)
    done = [each for each in configuration.results() if each.finished]
    value = objective_value(done, sweep.objective)
    configuration.write_status("pruned", [each.seed for each in done], value, reason)


def end(sweep: Sweep, configuration: ConfigurationFolder) -> None:
    """Write that a configuration has finished, or that a run of it failed or diverged."""
    results = configuration.results()
    done, bad = [each for each in results if each.finished], [each for each in results if not each.finished]
    seeds, value = [each.seed for each in done], objective_value(done, sweep.objective)
    if bad:
        configuration.write_status(bad[0].status, seeds, value, bad[0].reason)
    else:
        configuration.write_status("finished", seeds, value)


def _stop(
    folder: SweepFolder, configuration: ConfigurationFolder, run: RunFolder, judged: JudgedAt, reason: str
) -> None:
    settings = Configuration.model_validate(configuration.configuration().sections(), context=STORED)
    result = {
        "configuration": configuration.key,
        "stage": SEARCH,
        "status": "pruned",
        "reason": reason,
        "failure": None,
        "attempts": run.attempt(),
        **asked(settings, run.seed),
        "steps": judged.step,
        "planned_steps": judged.steps,
        "seconds": judged.seconds,
    }
    run.finish(result)
    folder.append_result(run)
