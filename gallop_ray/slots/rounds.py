"""A run that trains on several tasks in turn: a round per task, measured on all of them.

From the base model each time, the protocol of GaLLoP (arXiv 2510.19778): ID accuracy is that of the task trained on,
OOD accuracy that of the others, and every metric is averaged over the rounds. Or, as a sequence, each on what the
rounds before have left (`tasks/sequence.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch.distributed as dist

from gallop_ray.disk.damage import Damaged
from gallop_ray.disk.regular import remove
from gallop_ray.disk.tensors import metadata_of
from gallop_ray.records.files import Record
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RoundFolder, RunFolder
from gallop_ray.sparse.weights import rank, world_size
from gallop_ray.spec.configuration import asked
from gallop_ray.spec.data import DataSpec
from gallop_ray.spec.plan import optimizer_steps
from gallop_ray.spec.schema import Configuration
from gallop_ray.tasks.metrics import Accuracies, over_rounds, summarize
from gallop_ray.tasks.sequence import stages, transfer
from gallop_ray.training.context import NullReporter
from gallop_ray.training.moved_base import moved
from gallop_ray.training.resident import LoadedModel
from gallop_ray.training.run import execute

_OF_THE_RUN = (
    *("seed", "method", "method_type", "selection_ratio", "learning_rate"),
    *("trained_parameters", "density", "trainable_percent", "ood_tasks"),
)
_EXAMPLES = ("train_examples", "cut_examples", "dropped_examples")
_APART: tuple[Literal["mask", "correct", "outputs"], ...] = ("mask", "correct", "outputs")
_READ: tuple[Literal["correct", "outputs"], ...] = ("correct", "outputs")
_NO_METRICS = (
    *_OF_THE_RUN,
    *_EXAMPLES,
    "scores",
    "steps",
    "best_step",
    "micro_batch_size",
    "peak_memory_bytes",
    "started",
    "ended",
)


@dataclass(frozen=True)
class _Counted:
    """A round's reporter. Its events go to the run's file, where steps are counted over all rounds."""

    folder: RoundFolder
    before: int
    steps: int

    @property
    def adapter(self) -> Path:
        """In the round's folder."""
        return self.folder.adapter

    @property
    def checkpoint(self) -> Path:
        """In the round's folder."""
        return self.folder.checkpoint

    def event(self, event: str, **fields: Any) -> None:
        """Record an event with its task, and its step counted over all rounds."""
        if "step" in fields:
            fields |= {"step": self.before + fields["step"], "steps": self.steps}
        self.folder.whole.event(event, round=self.folder.task, **fields)


def execute_rounds(
    resident: LoadedModel,
    configuration: Configuration,
    seed: int,
    base: Accuracies,
    run: RunFolder,
    text_loss: float | None = None,
) -> Record:
    """Run the rounds that have not finished yet. Returns the content of result.json, as `execute`. Collective."""
    in_sequence = resident.sweep.data.sequence
    training, trains = configuration.training, configuration.method.trains
    steps = [optimizer_steps(training, len(each.epoch)) * trains for each in resident.rounds.values()]
    results: dict[str, Record] = {}
    for number, (task, part) in enumerate(resident.rounds.items()):
        folder = run.round(task)
        # What trains nothing has no adapter.
        trained = [each for each, done in results.items() if in_sequence and done["trained_parameters"]]
        result = _same_everywhere(_finished(folder) if rank() == 0 else None)
        if result is None:
            if rank() == 0:
                folder.begin({**asked(configuration, seed), "round": task})
            counted = _Counted(folder, sum(steps[:number]), sum(steps))
            reporter = counted if rank() == 0 else NullReporter(folder.adapter)
            with moved(part, [run.round(each).adapter for each in trained]) as stage:
                result = execute(stage, configuration, seed, base, reporter, text_loss)
            said = result.pop("predictions")
            if rank() == 0:
                folder.write_predictions(said, SweepFolder(run.path.parent.parent).base_predictions)
                _finish(folder, result)
        results[task] = result
    return together(results) if not in_sequence else _at_the_end(results, base, resident.sweep.data)


def _same_everywhere(found: Record | None) -> Record | None:
    """Rank 0's finding, on every rank: others may not see a file on a network disk yet."""
    everyone = [found]
    if world_size() > 1:
        dist.broadcast_object_list(everyone, src=0)
    return everyone[0]


def _finished(folder: RoundFolder) -> Record | None:
    """The result of a round that an earlier attempt has finished, with the documents that are stored separately.

    None where its adapter is lost, too: the round is run again.
    """
    result = folder.result()
    if result is None or (result.trained_parameters and not folder.stripped and not _is_whole(folder.adapter)):
        return None
    remove(folder.checkpoint)
    return {**result.as_json(), **{name: folder.read(name) for name in _APART}}


def _is_whole(adapter: Path) -> bool:
    """By its header and size; its checksums are verified where it is used."""
    try:
        metadata_of(adapter)
    except (FileNotFoundError, Damaged):
        return False
    return True


def _finish(folder: RoundFolder, result: Record) -> None:
    for name in _APART:
        folder.write(name, result[name])
    # The result last: a round that has one is never run again.
    rest = {name: value for name, value in result.items() if name not in _APART}
    folder.end({"configuration": folder.configuration, "round": folder.task, "status": "finished", **rest})
    remove(folder.checkpoint)


def together(results: Mapping[str, Record]) -> Record:
    """A run's result from those of its rounds, by task: means of the metrics, sums of steps and times."""
    rounds, metrics = list(results.values()), {task: _metrics(result) for task, result in results.items()}
    scores = {result["scores"] for result in rounds}
    phases = dict.fromkeys(phase for result in rounds for phase in result["seconds"])
    return {
        **{name: rounds[0][name] for name in _OF_THE_RUN},
        "scores": scores.pop() if len(scores) == 1 else None,
        "mask": {},
        **{name: sum(result.get(name) or 0 for result in rounds) for name in _EXAMPLES},
        "steps": sum(result["steps"] for result in rounds),
        "best_step": None,
        "micro_batch_size": min(result["micro_batch_size"] for result in rounds),
        **over_rounds(list(metrics.values())),
        "rounds": {task: {"best_step": results[task]["best_step"], **each} for task, each in metrics.items()},
        "forgetting_is_vacuous": any(result["forgetting_is_vacuous"] for result in rounds),
        "correct": _by_round(results, "correct"),
        "outputs": _by_round(results, "outputs"),
        "seconds": {phase: round(sum(r["seconds"].get(phase, 0.0) for r in rounds), 4) for phase in phases},
        "peak_memory_bytes": max(result["peak_memory_bytes"] for result in rounds),
        "started": min(result["started"] for result in rounds),
        "ended": max(result["ended"] for result in rounds),
    }


def _at_the_end(results: Mapping[str, Record], base: Accuracies, data: DataSpec) -> Record:
    """A sequence's result: what its last stage knows, in the form of rounds; costs are those of all stages."""
    last, known = list(results.values())[-1], {stage: result["tasks"] for stage, result in results.items()}
    read = {each: (each, *data.ood) for each in results}
    metrics, whole = _metrics(last), together(results)
    for stage, values in stages(known).items():
        whole["rounds"][stage] |= values
    return {
        **whole,
        **{name: metrics[name] for name in metrics if name in whole},
        **over_rounds([summarize(last["tasks"], base, task, data.ood) for task in results]),
        **transfer(known),
        **{of: {f"{t}/{i}": last[of][i] for t, tasks in read.items() for i in tasks if i in last[of]} for of in _READ},
    }


def _by_round(results: Mapping[str, Record], document: Literal["correct", "outputs"]) -> Record:
    """A document of all rounds, by `<task trained on>/<task>`."""
    return {f"{task}/{other}": said for task, result in results.items() for other, said in result[document].items()}


def _metrics(result: Record) -> dict[str, float | None]:
    """The shares, ratios and losses of a result, including missing ones."""
    return {
        name: value
        for name, value in result.items()
        if name not in _NO_METRICS and (value is None or isinstance(value, float))
    }
