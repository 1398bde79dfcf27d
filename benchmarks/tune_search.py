"""`python -m benchmarks.tune_search FOLDER`: Tune's ASHAScheduler and OptunaSearch, as Ray documents them.

What a trial trains and measures, and how, is ours, with the same rungs; each trial loads the model. What it ends with
is trained with the other seeds, too, so that its choice can be compared.
"""

import os
import sys
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.spec.configuration import configuration_key, method_space, resolve
from gallop_ray.spec.rungs import rungs_of
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.space import ChoiceRange, LogRange, Range

_LOSS = "loss"


def main(folder: SweepFolder) -> None:
    """Search, then train the best trial's configuration with the seeds that are left."""
    sweep = Sweep.model_validate(folder.spec())
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    rungs, steps = _rungs(sweep), sweep.training.steps
    assert steps is not None
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_trial, place=str(folder.path)), {"CPU": 1}),
        param_space={path: _domain(values) for path, values in method_space(sweep, sweep.methods[0].name).items()},
        tune_config=tune.TuneConfig(
            metric=_LOSS,
            mode="min",
            num_samples=sweep.budget.configurations or 1,
            search_alg=OptunaSearch(seed=sweep.search.seed),
            scheduler=ASHAScheduler(
                time_attr="step", max_t=steps, grace_period=rungs[0], reduction_factor=sweep.pruning.reduction
            ),
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder.path / "ray")),
    )
    found = tuner.fit()
    if found.errors:
        raise found.errors[0]
    trials = [found[number] for number in range(len(found))]
    ended = {
        each.metrics["objective"]: each.config or {} for each in trials if each.metrics and "objective" in each.metrics
    }
    finish = ray.remote(num_cpus=1)(_finish)
    ray.get([finish.remote(ended[max(ended)], seed, str(folder.path)) for seed in sweep.seeds[1:]])
    ray.shutdown()


def _domain(values: Range) -> Any:
    """A range of the sweep file as Tune has it."""
    match values:
        case LogRange(log=(low, high)):
            return tune.loguniform(low, high)
        case ChoiceRange(choice=choices):
            return tune.choice(choices)
    raise ValueError(f"{values} has no counterpart here")


def _rungs(sweep: Sweep) -> list[int]:
    """The steps at which a trial reports before its end: those of asha."""
    (method,) = sweep.methods
    found = [rung.step(sweep.training.steps or 0) for rung in rungs_of(sweep, method.name)]
    return [step for step in found if step is not None]


def _trial(config: dict[str, Any], place: str) -> None:
    """One configuration with the first seed. ASHA ends it at a report."""
    from gallop_ray.training.pause import Judged

    run, record, sweep = _begun(config, SweepFolder(Path(place)), None)
    for step in _rungs(sweep):
        judged = run(step)
        assert isinstance(judged, Judged)
        record.pause({"rung": step, **vars(judged)})
        tune.report({"step": judged.step, _LOSS: judged.loss})
    result = _finished(run(None), record)
    tune.report({"step": sweep.training.steps, _LOSS: judged.loss, "objective": result[sweep.objective.metric]})


def _finish(config: dict[str, Any], seed: int, place: str) -> None:
    run, record, _ = _begun(config, SweepFolder(Path(place)), seed)
    _finished(run(None), record)


def _begun(config: dict[str, Any], folder: SweepFolder, seed: int | None) -> tuple[Any, RunFolder, Sweep]:
    """What trains a configuration up to a step, the model being loaded for it alone; its record; the sweep."""
    import torch
    import torch.distributed as dist

    from gallop_ray.training.resident import load_base_model
    from gallop_ray.training.run import execute_until

    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    sweep, base = Sweep.model_validate(folder.spec()), folder.base()
    assert base is not None
    if not dist.is_initialized():
        dist.init_process_group(
            "gloo",
            store=dist.HashStore(),  # type: ignore[attr-defined]
            rank=0,
            world_size=1,
        )
    (method,) = sweep.methods
    configuration = resolve(sweep, method.name, config)
    asked = folder.configuration(configuration_key(configuration))
    asked.create(configuration.model_dump(mode="json"))
    record = asked.run(sweep.seeds[0] if seed is None else seed)
    record.start({}, "trial")
    resident, text_loss = load_base_model(sweep), folder.base_text_loss()

    def run(until: int | None) -> Any:
        return execute_until(until, resident, configuration, record.seed, base, record, text_loss)

    return run, record, sweep


def _finished(result: dict[str, Any], record: RunFolder) -> dict[str, Any]:
    for document in ("mask", "correct", "outputs", "predictions"):
        result.pop(document)
    record.finish({"status": "finished", **result})
    return result


if __name__ == "__main__":
    main(SweepFolder(Path(sys.argv[1])))
