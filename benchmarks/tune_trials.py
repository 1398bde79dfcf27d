"""`python -m benchmarks.tune_trials FOLDER`: plain Tune, one TorchTrainer.fit() per trial, as Ray documents it.

What a trial trains and measures, and how, is ours; only what starts it and waits for it differs.
"""

import sys
from pathlib import Path
from typing import Any

import ray
from ray import tune

from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.schema import Sweep

_WAITING = 0.01
"""CPUs of a trial, which only waits; were it given a whole one, the worker could not have all of them."""
_BASE = "base"
"""In the place of a configuration's key."""


def main(folder: SweepFolder) -> None:
    """Measure the base model, then run every configuration of the folder, one after another."""
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(_trial, {"CPU": _WAITING}),
        param_space={
            "folder": str(folder.path),
            "key": tune.grid_search([_BASE, *(configuration.key for configuration in folder.configurations())]),
        },
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder.path / "ray")),
    )
    errors = tuner.fit().errors
    ray.shutdown()
    if errors:
        raise errors[0]


def _trial(config: dict[str, Any]) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    folder, to_tune = SweepFolder(Path(config["folder"])), TuneReportCallback()
    resources = Sweep.model_validate(folder.spec()).resources
    gpus = {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}
    TorchTrainer(
        _train,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=resources.workers_per_slot,
            use_gpu=bool(gpus),
            resources_per_worker={"CPU": resources.cpus_per_worker - _WAITING, **gpus},
        ),
        run_config=RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}",
            storage_path=str(folder.path / "ray"),
            callbacks=[to_tune],  # type: ignore[list-item]  # annotated for the Ray Train before this one
        ),
    ).fit()


def _train(config: dict[str, Any]) -> None:
    # Imported here, so that only workers wait for them.
    import ray.train
    import torch

    from gallop_ray.spec.schema import Configuration
    from gallop_ray.training.resident import load_base_model
    from gallop_ray.training.run import execute, measure_base

    folder = SweepFolder(Path(config["folder"]))
    sweep, base = Sweep.model_validate(folder.spec()), folder.base()
    assert base is not None
    torch.set_num_threads(max(1, round(sweep.resources.cpus_per_worker)))
    resident = load_base_model(sweep)
    if config["key"] == _BASE:
        measured = measure_base(resident).accuracies
        ray.train.report({"val_id_accuracy": measured[sweep.data.train_task]["validation"]["likelihood"]})
        return
    asked = folder.configuration(config["key"])
    for seed in sweep.seeds:
        record = asked.run(seed)
        record.start({}, "trial")
        result = execute(
            resident,
            Configuration.model_validate(asked.configuration().sections()),
            seed,
            base,
            record,
            folder.base_text_loss(),
        )
        record.write_predictions(result.pop("predictions"), folder.base_predictions)
        for document in ("mask", "correct", "outputs"):
            record.write(document, result.pop(document))
        record.finish({"status": "finished", **result})
        ray.train.report({key: result[key] for key in ("val_id_accuracy", "train_loss")})


if __name__ == "__main__":
    main(SweepFolder(Path(sys.argv[1])))
