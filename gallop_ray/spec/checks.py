"""Checks between fields of a sweep, which no single field's validation can do."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from gallop_ray.spec.adalora_checks import adalora_prunes
from gallop_ray.spec.deepspeed_checks import deepspeed_extra, extra_without_effect, offload_stages
from gallop_ray.spec.document import Document
from gallop_ray.spec.draft import Draft
from gallop_ray.spec.ewc_checks import ewc_is_of_weights, ewc_knows_what_to_keep
from gallop_ray.spec.file_checks import (
    buckets_can_be_reached,
    delta_can_be_read,
    harness_tasks,
    model_can_be_read,
    no_addresses,
    revision_is_of_a_hub_id,
    root_exists,
    sources_exist,
    text_exists,
)
from gallop_ray.spec.metrics import TEXT_LOSS, declare, find, objectives
from gallop_ray.spec.peft_tuners import tuners_work
from gallop_ray.spec.places import is_file
from gallop_ray.spec.problems import Finding, Path, Problem, SweepFileError, by_path, dotted, explain, shown
from gallop_ray.spec.rungs import climbs, rung_weights
from gallop_ray.spec.schema import UNCHECKED, Sweep
from gallop_ray.spec.search_checks import (
    batch_divides,
    best_can_be_kept,
    decay_decays,
    entries_have_ages,
    first_points_are_tried,
    first_points_fit,
    fixed_paths,
    grid_is_finite,
    lora_has_one_scale,
    method_paths,
    options_fit_together,
    owned_options,
    range_values,
    ranges_can_grow,
    sampler_has_options,
    settled_fields,
    steps_or_epochs,
    training_paths,
    values_are_the_fields,
)
from gallop_ray.spec.tasks import TaskSpec

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def check(document: Document, draft: Draft) -> Iterator[Problem]:
    """The problems between fields, for checks whose fields are valid by themselves."""
    for needs, findings in _CHECKS:
        if all(draft.good(tuple(each.split("."))) for each in needs):
            for paths, message in _since_begun(draft.sweep, findings):
                yield document.problem(_written(document, paths), message)


def _since_begun(sweep: Sweep, findings: Callable[[Sweep], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check finds; nothing of those that came later than a sweep that is already there, and is resumed."""
    found = list(findings(sweep))
    yield from [] if found and findings in _OF_NEW_SWEEPS and is_begun(sweep) else found


def is_begun(sweep: Sweep) -> bool:
    """Whether there is a sweep of this name already, which is resumed."""
    return is_file(f"{sweep.output}/{sweep.name}/spec.json")


def broken_rules(sweep: Sweep) -> Iterator[Finding]:
    """What does not fit together in a sweep, without looking at files."""
    for _, findings in _CHECKS:
        if findings not in _OF_FILES:
            yield from _since_begun(sweep, findings)


def verify(sweep: Sweep) -> Sweep:
    """Check a sweep that was created or changed in Python as if it were read from a file, including its files.

    Returns the same sweep, with each method's options of its own class, which a sweep read from records may lack.

    Raises SweepFileError with one line per problem.
    """
    return checked_sweep(sweep.model_dump(mode="json", warnings=False))


def checked_sweep(data: dict[str, Any]) -> Sweep:
    """The sweep of a sweep file's content as a dict. Raises SweepFileError with one line per problem."""
    try:
        sweep = Sweep.model_validate(data, context=UNCHECKED)
    except ValidationError as error:
        wrong = by_path(error.errors(include_url=False), data)
        found = [(path, explain(errors, Sweep)) for path, errors in wrong.items()]
    else:
        found = [(paths[0], message) for _, findings in _CHECKS for paths, message in _since_begun(sweep, findings)]
    if found:
        name = f"sweep {data.get('name', '')}".strip()
        raise SweepFileError([Problem(name, None, dotted(path), message) for path, message in found])
    return sweep


def _written(document: Document, paths: Sequence[Path]) -> Path:
    """The first of the paths concerned that the user wrote, so that the reported line is one to change."""
    return next((path for path in paths if path in document.places), paths[0])


def _method_names(sweep: Sweep) -> Iterator[Finding]:
    names = [method.name for method in sweep.methods]
    for place, name in enumerate(names):
        paths = (("methods", place, "name"), ("methods", place, "type"))
        if name in names[:place]:
            yield paths, f"{shown(name)} is taken; two methods need two names, so give this one `name: ...`"
        if name == "method" or name in Sweep.model_fields:
            yield paths, f"{shown(name)} is not allowed as a name; it is the name of a section"


def _seeds_differ(sweep: Sweep) -> Iterator[Finding]:
    for place, seed in enumerate(sweep.seeds):
        if seed in sweep.seeds[:place]:
            yield (("seeds", place),), f"{seed} is there twice; every seed must differ"


def _ood_tasks(sweep: Sweep) -> Iterator[Finding]:
    data = sweep.data
    for place, task in enumerate(data.train_tasks):
        if task in data.train_tasks[:place]:
            yield (("data", "train", place),), f"{shown(task)} is there twice; every task must differ"
    for place, task in enumerate(data.ood):
        path = ("data", "ood", place)
        if task in data.ood[:place]:
            yield (path,), f"{shown(task)} is there twice; every task must differ"
        if task in data.train_tasks:
            yield (path,), f"{shown(task)} is not allowed; it is the task trained on, and must not be among the others"


def _sequence_has_tasks(sweep: Sweep) -> Iterator[Finding]:
    if sweep.data.sequence and len(sweep.data.train_tasks) < 2:
        message = "true is not allowed with one task to train on; a sequence is of two or more, as data.train: [a, b]"
        yield (("data", "sequence"), ("data", "train")), message


def _kept_tasks_are_others(sweep: Sweep) -> Iterator[Finding]:
    for field, kept in (("replay", sweep.data.replay), ("fisher", sweep.data.fisher)):
        if kept is not None and kept.task in sweep.data.train_tasks:
            message = f"{shown(kept.task)} is not allowed; it is the task trained on, and must be another"
            yield (("data", field, "task"),), message


def _objective_at(sweep: Sweep, place: int) -> tuple[Path, ...]:
    """Where one of the metrics is written that the objective names."""
    if place >= len(sweep.objective.all_metrics):
        return (("objective", "race"),)
    return ("objective", "metrics", place), ("objective", "metric")


def _objective_has_tasks(sweep: Sweep) -> Iterator[Finding]:
    for place, metric in enumerate(sweep.objective.named):
        known = find(metric)
        if known is not None and known.needs_ood and not known.without_ood and not sweep.data.rounds[0].ood:
            message = f"{metric} is not allowed without data.ood; list other tasks there, or choose val_id_accuracy"
            yield (*_objective_at(sweep, place), ("data", "ood")), message


def _objectives_are_named(sweep: Sweep) -> Iterator[Finding]:
    """A metric that only another sweep of this process has declared would be unknown in the workers."""
    here = {*objectives(), *(f"val_{metric.name}" for metric in map(declare, sweep.evaluation.metrics))}
    for place, metric in enumerate(sweep.objective.named):
        if metric not in here:
            message = f"{metric} is not allowed; name the metric in evaluation.metrics"
            yield _objective_at(sweep, place), message


def _objectives_differ(sweep: Sweep) -> Iterator[Finding]:
    metrics = sweep.objective.all_metrics
    for place, metric in enumerate(metrics):
        if metric in metrics[:place]:
            yield (("objective", "metrics", place),), f"{metric} is there twice; every metric must differ"
    if sweep.objective.metric != metrics[0]:
        message = f"{sweep.objective.metric} is not allowed beside metrics; give either metric or metrics"
        yield (("objective", "metric"),), message


def _race_is_run(sweep: Sweep) -> Iterator[Finding]:
    """A metric to race by where there are several, or nothing goes by it."""
    if sweep.objective.race is None:
        return
    if sweep.objective.metrics:
        yield (("objective", "race"),), "is not allowed beside several metrics; choose one objective.metric"
    elif sweep.pruning.type == "none" and sweep.search.sampler in ("random", "grid"):
        message = f"has no effect with sampler {sweep.search.sampler} and no pruning"
        yield (("objective", "race"), ("search", "sampler"), ("pruning",)), f"{message}; leave it out, or choose one"


def _errors_have_seeds(sweep: Sweep) -> Iterator[Finding]:
    if sweep.objective.standard_errors and len(sweep.seeds) == 1:
        message = f"{sweep.objective.standard_errors:g} is not allowed with one seed, which has no standard error"
        yield (("objective", "standard_errors"),), f"{message}; add seeds, or leave it out"


def _pruning_fits(sweep: Sweep) -> Iterator[Finding]:
    pruning, seeds = sweep.pruning, len(sweep.seeds)
    if pruning.type == "none":
        return
    if sweep.objective.metrics:
        message = f"{pruning.type} is not allowed with several metrics; pruning needs one, so choose objective.metric"
        yield (("pruning", "type"),), f"{message}, or type: none"
    if pruning.type == "asha" or pruning.rungs is not None:  # it looks at steps of the first seed, too
        return
    if seeds == 1:
        message = f"{pruning.type} is not allowed with one seed; pruning stops a configuration between its seeds"
        yield (("pruning", "type"),), message
    elif pruning.after_seeds >= seeds:
        message = f"{pruning.after_seeds} is not allowed; must be less than the number of seeds, which is {seeds}"
        yield (("pruning", "after_seeds"), ("seeds",)), message


def _rungs_fit(sweep: Sweep) -> Iterator[Finding]:
    pruning = sweep.pruning
    if not climbs(sweep):
        return
    at = ("pruning", "type") if pruning.type == "asha" else ("pruning", "rungs")
    at = at if pruning.type == "asha" or pruning.rungs else ("resources", "interleave")
    if pruning.rungs and pruning.type == "none" and sweep.resources.interleave == 1:
        message = "is not allowed with type: none, which judges nothing; choose asha, race or median"
        yield (("pruning", "rungs"), ("pruning", "type")), message
    if len(sweep.data.train_tasks) > 1:
        yield (at, ("data", "train")), "rungs of steps are not there for runs with several rounds; train on one task"
    judged = [name for name in rung_weights(sweep) if sweep.data.task(name).harness is not None]
    if judged:
        message = f"configurations are judged by losses at rungs, and {judged[0]} is judged by lm-evaluation-harness"
        yield (at, ("data", "tasks", judged[0])), f"{message}; leave one of the two out"


def _turns_have_one_metric(sweep: Sweep) -> Iterator[Finding]:
    if sweep.objective.metrics is not None and sweep.pruning.type == "none" and climbs(sweep):
        message = "rungs of steps are not there for objectives with several metrics; give one, or leave this out"
        yield (("resources", "interleave"), ("objective", "metrics")), message


def _fresh_seeds(sweep: Sweep) -> Iterator[Finding]:
    if sweep.confirmation is None:
        return
    if sweep.objective.metrics:
        message = "is not allowed with several metrics; a confirmation needs one, so choose objective.metric"
        yield (("confirmation",),), message
    fresh = sweep.confirmation.seeds
    for place, seed in enumerate(fresh):
        if seed in sweep.seeds or seed in fresh[:place]:
            message = f"{seed} is not allowed; a confirmation needs seeds of its own, each once"
            yield (("confirmation", "seeds", place), ("confirmation", "seeds")), message


def _prompt_shows_task(sweep: Sweep) -> Iterator[Finding]:
    prompt = sweep.data.prompt
    if prompt != "chat" and "{instruction}" not in prompt:
        yield (("data", "prompt"),), f"{shown(prompt)} is not allowed; must contain {{instruction}}, or be `chat`"


def _prompt_has_no_other(sweep: Sweep) -> Iterator[Finding]:
    """Placeholders that nothing fills: the model would read them as they stand."""
    prompt = sweep.data.prompt
    for name in dict.fromkeys(_PLACEHOLDER.findall(prompt)):
        if name not in ("instruction", "input"):
            message = f"{shown(prompt)} is not allowed; there is no {{{name}}}, only {{instruction}} and {{input}}"
            yield (("data", "prompt"),), f"{message}; other columns are for the task's own `prompt`, in data.tasks"


def _text_to_go_by(sweep: Sweep) -> Iterator[Finding]:
    for place, metric in enumerate(sweep.objective.named):
        if metric == f"val_{TEXT_LOSS}" and sweep.evaluation.text_of(sweep.model.name) is None:
            message = f"{metric} is not allowed without evaluation.text; give general text there"
            yield _objective_at(sweep, place), message


_HARNESS_DECIDES = ("few_shot", "measure", "also", "normalize", "max_new_tokens", "stop")


def _harness_fields(sweep: Sweep) -> Iterator[Finding]:
    for name, task in sweep.data.tasks.items():
        for field in _HARNESS_DECIDES if task.harness is not None else ():
            if getattr(task, field) != TaskSpec.model_fields[field].default:
                message = (
                    "is not allowed with `harness`, whose task asks and measures; num_fewshot and metric are its own"
                )
                yield (("data", "tasks", name, field), ("data", "tasks", name)), message
        for field in ("num_fewshot", "limit", "metric") if task.harness is None else ():
            if getattr(task, field) is not None:
                yield (("data", "tasks", name, field),), "is not allowed without `harness`, the task that it is of"


def _whole_gpus(sweep: Sweep) -> Iterator[Finding]:
    gpus = sweep.resources.gpus_per_worker
    if gpus > 1 and not gpus.is_integer():
        message = f"{gpus:g} is not allowed; a worker has a part of one GPU, or whole ones"
        yield (("resources", "gpus_per_worker"),), message
    if 0 < gpus < 1 and sweep.resources.workers_per_slot > 1:
        message = f"{gpus:g} is not allowed with several workers_per_slot, which NCCL cannot join on one GPU; give 1"
        yield (("resources", "gpus_per_worker"),), message


# The fields that must be right by themselves before a check can say anything, and the check.
_CHECKS: tuple[tuple[Sequence[str], Callable[[Sweep], Iterator[Finding]]], ...] = (
    (("deepspeed",), offload_stages),
    ((), _method_names),
    (("seeds",), _seeds_differ),
    (("data.train", "data.ood"), _ood_tasks),
    (("data.train", "data.sequence"), _sequence_has_tasks),
    (("data.train", "data.replay", "data.fisher"), _kept_tasks_are_others),
    (("data.train", "data.ood", "objective"), _objective_has_tasks),
    (("objective", "evaluation.metrics"), _objectives_are_named),
    (("objective",), _objectives_differ),
    (("objective", "seeds"), _errors_have_seeds),
    (("objective", "search", "pruning"), _race_is_run),
    (("seeds", "pruning", "objective"), _pruning_fits),
    (("pruning", "resources", "data", "objective"), _rungs_fit),
    (("pruning", "resources", "objective"), _turns_have_one_metric),
    (("seeds", "confirmation", "objective"), _fresh_seeds),
    (("data.prompt",), _prompt_shows_task),
    (("data.prompt",), _prompt_has_no_other),
    (("model.name", "training.max_length"), model_can_be_read),
    (("model",), revision_is_of_a_hub_id),
    (("model",), delta_can_be_read),
    (("data.root",), root_exists),
    (("data",), sources_exist),
    (("evaluation.text",), text_exists),
    (("evaluation.text", "model.name", "objective"), _text_to_go_by),
    (("data.tasks", "data.train", "data.ood"), harness_tasks),
    (("data.tasks",), _harness_fields),
    (("model.name", "evaluation.text", "search.storage"), no_addresses),
    (("output", "model.name", "data", "evaluation.text"), buckets_can_be_reached),
    (("deepspeed.extra",), deepspeed_extra),
    (("deepspeed",), extra_without_effect),
    (("training.optimizer_options", "search.space"), owned_options),
    (("resources",), _whole_gpus),
    ((), fixed_paths),
    ((), settled_fields),
    (("training.steps", "methods", "search.space"), steps_or_epochs),
    ((), training_paths),
    (("methods",), method_paths),
    ((), range_values),
    (("methods", "training", "search.space"), values_are_the_fields),
    (("methods", "search.space"), options_fit_together),
    (("search.sampler", "search.sampler_options"), sampler_has_options),
    (("search.sampler", "search.space"), grid_is_finite),
    (("search", "objective"), ranges_can_grow),
    (("methods", "search"), first_points_fit),
    (("methods", "search", "budget"), first_points_are_tried),
    (("methods", "search.space"), lora_has_one_scale),
    (("methods", "search.space", "deepspeed.zero_stage"), tuners_work),
    (("methods", "search.space", "training"), adalora_prunes),
    (("training.keep", "training.validate_steps", "methods", "objective", "search"), best_can_be_kept),
    (("training.decay_to", "training.weight_decay", "methods", "search"), decay_decays),
    (("training.ewc", "data.fisher", "methods", "search"), ewc_knows_what_to_keep),
    (("training.ewc", "methods", "search"), ewc_is_of_weights),
    (("training.optimizer", "methods", "search"), entries_have_ages),
    (("training.batch_size", "training.micro_batch_size", "resources.workers_per_slot", "search"), batch_divides),
)
_OF_FILES: tuple[Callable[[Sweep], Iterator[Finding]], ...] = (
    buckets_can_be_reached,
    model_can_be_read,
    revision_is_of_a_hub_id,
    delta_can_be_read,
    root_exists,
    text_exists,
    harness_tasks,
)
"""Checks that depend on the machine: done where a sweep is read or run, not where its records are only displayed."""
_OF_NEW_SWEEPS: tuple[Callable[[Sweep], Iterator[Finding]], ...] = (
    _prompt_has_no_other,
    _turns_have_one_metric,
    decay_decays,
    extra_without_effect,
    first_points_are_tried,
    options_fit_together,
    owned_options,
    revision_is_of_a_hub_id,
    sampler_has_options,
    settled_fields,
    steps_or_epochs,
    values_are_the_fields,
)
"""Checks of what earlier versions let pass, most of it without effect: a sweep that they began must run to its end."""
