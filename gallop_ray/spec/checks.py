"""Checks between fields of a sweep, which no single field's validation can do."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from gallop_ray.disk.bucket.address import is_bucket, is_installed
from gallop_ray.spec.document import Document
from gallop_ray.spec.draft import Draft
from gallop_ray.spec.harness import task_path
from gallop_ray.spec.metrics import TEXT_LOSS, declare, find, objectives
from gallop_ray.spec.model_folder import folder_problem, name_problem, position_table, read_config
from gallop_ray.spec.peft_tuners import tuners_work
from gallop_ray.spec.places import is_file, is_folder
from gallop_ray.spec.problems import Path, Problem, SweepFileError, by_path, did_you_mean, dotted, explain, shown
from gallop_ray.spec.rungs import climbs, rung_weights
from gallop_ray.spec.schema import UNCHECKED, Sweep
from gallop_ray.spec.search_checks import (
    Finding,
    batch_divides,
    best_can_be_kept,
    decay_has_a_target,
    entries_have_ages,
    first_points_fit,
    fixed_paths,
    grid_is_finite,
    lora_has_one_scale,
    method_paths,
    options_fit_together,
    owned_options,
    range_values,
    sampler_has_options,
    settled_fields,
    steps_or_epochs,
    training_paths,
    values_are_the_fields,
)
from gallop_ray.spec.secrets import hidden
from gallop_ray.spec.tasks import OF_SOURCES, TaskSpec, is_local, is_missing, kind_of_file

_OWNED_BY_US = {
    "train_batch_size": "training.batch_size",
    "train_micro_batch_size_per_gpu": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.batch_size and training.micro_batch_size",
    "gradient_clipping": "training.clip_norm",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "optimizer": "training.learning_rate and training.weight_decay",
    "scheduler": "training.schedule and training.warmup_ratio",
    "torch_autocast": "model.dtype",
    # They would write beside MLflow, and their keys into the records.
    **dict.fromkeys(("comet", "csv_monitor", "tensorboard", "wandb"), "tracking"),
}
_SET_BY_US = ("zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer")
_OFFLOADS = {
    "offload_param": (3, "use zero_stage 3"),
    "cpu_offload_param": (3, "use zero_stage 3"),
    "offload_optimizer": (1, "use zero_stage 1 or more"),
    "cpu_offload": (1, "use zero_stage 1 or more"),
}
"""The sections of zero_optimization that offload, and the lowest stage at which they do."""
_DATABASES = ("sqlite", "postgresql", "mysql")
_COPIED_WEIGHTS = {
    "zero_hpz_partition_size": (0, 1),
    "zero_quantized_weights": (False,),
    "zero_quantized_nontrainable_weights": (False,),
    "stage3_param_persistence_threshold": (0,),
    "param_persistence_threshold": (0,),
}


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


def _offload_stages(sweep: Sweep) -> Iterator[Finding]:
    deepspeed = sweep.deepspeed
    stage = ("deepspeed", "zero_stage")
    if deepspeed.offload_parameters and deepspeed.zero_stage != 3:
        message = f"true is not allowed at zero_stage {deepspeed.zero_stage}; parameters are offloaded at stage 3 only"
        yield (("deepspeed", "offload_parameters"), stage), message
    if deepspeed.offload_optimizer and deepspeed.zero_stage == 0:
        message = "true is not allowed at zero_stage 0; the optimizer is offloaded at stages 1, 2 and 3"
        yield (("deepspeed", "offload_optimizer"), stage), message


def _extra_without_effect(sweep: Sweep) -> Iterator[Finding]:
    deepspeed, stage = sweep.deepspeed, ("deepspeed", "zero_stage")
    for key in _SET_BY_US:
        if key in deepspeed.extra:
            yield (("deepspeed", "extra", key),), "is not allowed here; every run sets it, so leave it out"
    zero = deepspeed.extra.get("zero_optimization", {})
    for key, (lowest, at) in _OFFLOADS.items() if isinstance(zero, dict) else ():
        if deepspeed.zero_stage < lowest and _is_asked(zero.get(key)):
            message = f"is not allowed at zero_stage {deepspeed.zero_stage}, where DeepSpeed ignores it; {at}"
            yield (("deepspeed", "extra", "zero_optimization", key), stage), message


def _is_asked(offload: object) -> bool:
    return bool(offload) and not (isinstance(offload, dict) and offload.get("device", "none") in (None, "none"))


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


def _objective_has_tasks(sweep: Sweep) -> Iterator[Finding]:
    for place, metric in enumerate(sweep.objective.all_metrics):
        known = find(metric)
        if known is not None and known.needs_ood and not known.without_ood and not sweep.data.rounds[0].ood:
            message = f"{metric} is not allowed without data.ood; list other tasks there, or choose val_id_accuracy"
            yield (("objective", "metrics", place), ("objective", "metric"), ("data", "ood")), message


def _objectives_are_named(sweep: Sweep) -> Iterator[Finding]:
    """A metric that only another sweep of this process has declared would be unknown in the workers."""
    here = {*objectives(), *(f"val_{metric.name}" for metric in map(declare, sweep.evaluation.metrics))}
    for place, metric in enumerate(sweep.objective.all_metrics):
        if metric not in here:
            message = f"{metric} is not allowed; name the metric in evaluation.metrics"
            yield (("objective", "metrics", place), ("objective", "metric")), message


def _objectives_differ(sweep: Sweep) -> Iterator[Finding]:
    metrics = sweep.objective.all_metrics
    for place, metric in enumerate(metrics):
        if metric in metrics[:place]:
            yield (("objective", "metrics", place),), f"{metric} is there twice; every metric must differ"
    if sweep.objective.metric != metrics[0]:
        message = f"{sweep.objective.metric} is not allowed beside metrics; give either metric or metrics"
        yield (("objective", "metric"),), message


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
    if climbs(sweep):  # the first seed's steps are rungs, too
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


def _model_can_be_read(sweep: Sweep) -> Iterator[Finding]:
    name, folder = sweep.model.name, FilePath(sweep.model.name).expanduser()
    if not is_folder(name):
        # An absolute path may be there on the cluster to which this is submitted.
        if not name.startswith("/") and (problem := name_problem(name)):
            yield (("model", "name"),), problem
        return
    if found := folder_problem(folder):
        yield (("model", "name"),), f"{shown(name)} cannot be loaded: {found}"
        return
    limit, longest = position_table(read_config(folder)), sweep.training.max_length
    if limit is not None and longest > limit:
        message = f"{longest} is not allowed; the model has {limit} positions, so give {limit} or less"
        yield (("training", "max_length"), ("model", "name")), message


def _root_exists(sweep: Sweep) -> Iterator[Finding]:
    root = sweep.data.root
    if root not in ("hub", "generated") and not is_folder(root):
        message = f"{shown(root)} is not allowed; must be `hub`, `generated` or a folder, and there is no such folder"
        yield (("data", "root"),), message + did_you_mean(root, ("hub", "generated"))


def _sources_exist(sweep: Sweep) -> Iterator[Finding]:
    for name, task in sweep.data.tasks.items():
        path = ("data", "tasks", name)
        if task.source is None:
            unused = [field for field in OF_SOURCES if getattr(task, field) != TaskSpec.model_fields[field].default]
            for field in unused:
                yield ((*path, field), path), "is not allowed without source, whose rows it is about"
            continue
        files: dict[tuple[str, ...], str] = {("source",): task.source}
        files |= {("splits", ours): theirs for ours, theirs in task.splits.items() if isinstance(theirs, str)}
        for part, text in files.items():
            if "://" in text:
                message = f"{shown(hidden(text))} is not allowed; an address is not read, give a path or a hub id"
                yield ((*path, *part), path), message
            elif is_missing(text):
                yield ((*path, *part), path), f"{shown(text)} is not allowed; there is no such file"
        for field in ("config", "revision"):
            if getattr(task, field) is not None and is_local(task.source):
                yield ((*path, field), path), f"is not allowed with {shown(task.source)}, which is no hub id"


def _text_exists(sweep: Sweep) -> Iterator[Finding]:
    text = sweep.evaluation.text
    if not text:
        return
    if is_folder(text) or (is_file(text) and not text.endswith(".jsonl")):
        yield (("evaluation", "text"),), f"{shown(text)} is not allowed; give a .jsonl file with a field `text`"
    elif not is_file(text) and (kind_of_file(text) or text.startswith((".", "/", "~"))):
        yield (("evaluation", "text"),), f"{shown(text)} is not allowed; there is no such file"
    elif text.lower() in ("none", "no", "off"):
        yield (("evaluation", "text"),), f"{shown(text)} is not allowed; null leaves it out"


def _text_to_go_by(sweep: Sweep) -> Iterator[Finding]:
    for place, metric in enumerate(sweep.objective.all_metrics):
        if metric == f"val_{TEXT_LOSS}" and sweep.evaluation.text_of(sweep.model.name) is None:
            message = f"{metric} is not allowed without evaluation.text; give general text there"
            yield (("objective", "metrics", place), ("objective", "metric")), message


def _harness_tasks(sweep: Sweep) -> Iterator[Finding]:
    for name in (*sweep.data.train_tasks, *sweep.data.ood):
        task = sweep.data.tasks.get(name)
        if task is None or task.harness is None:
            continue
        try:
            task_path(task.harness)
        except ValueError as error:
            yield (("data", "tasks", name, "harness"), ("data", "tasks", name)), str(error)
        if name in sweep.data.train_tasks and task.source is None:
            message = "a harness task tests; give the task that is trained on a `source` of training examples as well"
            yield (("data", "tasks", name, "harness"), ("data", "tasks", name)), message


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


def _no_buckets(sweep: Sweep) -> Iterator[Finding]:
    """Addresses that nothing here can open: taken for a hub id or a relative path, they would fail late."""
    places = {("model", "name"): sweep.model.name, ("evaluation", "text"): sweep.evaluation.text}
    for path, value in places.items():
        if value and "://" in value:
            yield (
                (path,),
                f"{shown(hidden(value))} is not allowed; an address is not read, give a path on shared storage",
            )
    storage = sweep.search.storage
    if storage and "://" in storage and storage.partition(":")[0].partition("+")[0] not in _DATABASES:
        message = f"{shown(hidden(storage))} is not allowed; must be the address of a database"
        yield (("search", "storage"),), f"{message}, which begins with {', '.join(f'{each}://' for each in _DATABASES)}"


def _bucket_can_be_reached(sweep: Sweep) -> Iterator[Finding]:
    if is_bucket(sweep.output) and not is_installed():
        message = f"{shown(sweep.output)} is not allowed here; buckets need obstore, pip install 'gallop_ray[cloud]'"
        yield (("output",),), message


def _deepspeed_extra(sweep: Sweep) -> Iterator[Finding]:
    extra = sweep.deepspeed.extra
    zero: Any = extra.get("zero_optimization", {})
    at = ("deepspeed", "extra")
    for key, ours in _OWNED_BY_US.items():
        if key in extra:
            yield ((*at, key),), f"is not allowed here; set {ours} instead"
    if not isinstance(zero, dict):
        yield ((*at, "zero_optimization"),), f"{shown(zero)} is not allowed; must be a section of `key: value` lines"
        return
    if "stage" in zero:
        yield ((*at, "zero_optimization", "stage"),), "is not allowed here; set deepspeed.zero_stage instead"
    for key, harmless in _COPIED_WEIGHTS.items():
        if zero.get(key, harmless[0]) not in harmless:
            message = (
                f"{shown(zero[key])} is not allowed; it keeps copies of the weights that sparse updates do not reach"
            )
            yield ((*at, "zero_optimization", key),), message


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
    (("deepspeed",), _offload_stages),
    ((), _method_names),
    (("seeds",), _seeds_differ),
    (("data.train", "data.ood"), _ood_tasks),
    (("data.train", "data.ood", "objective"), _objective_has_tasks),
    (("objective", "evaluation.metrics"), _objectives_are_named),
    (("objective",), _objectives_differ),
    (("objective", "seeds"), _errors_have_seeds),
    (("seeds", "pruning", "objective"), _pruning_fits),
    (("pruning", "resources", "data", "objective"), _rungs_fit),
    (("seeds", "confirmation", "objective"), _fresh_seeds),
    (("data.prompt",), _prompt_shows_task),
    (("model.name", "training.max_length"), _model_can_be_read),
    (("data.root",), _root_exists),
    (("data",), _sources_exist),
    (("evaluation.text",), _text_exists),
    (("evaluation.text", "model.name", "objective"), _text_to_go_by),
    (("data.tasks", "data.train", "data.ood"), _harness_tasks),
    (("data.tasks",), _harness_fields),
    (("model.name", "evaluation.text", "search.storage"), _no_buckets),
    (("output",), _bucket_can_be_reached),
    (("deepspeed.extra",), _deepspeed_extra),
    (("deepspeed",), _extra_without_effect),
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
    (("methods", "search"), first_points_fit),
    (("methods", "search.space"), lora_has_one_scale),
    (("methods", "search.space", "deepspeed.zero_stage"), tuners_work),
    (("training.keep", "training.validate_steps", "methods", "objective", "search"), best_can_be_kept),
    (("training.decay_to", "methods", "search"), decay_has_a_target),
    (("training.optimizer", "methods", "search"), entries_have_ages),
    (("training.batch_size", "training.micro_batch_size", "resources.workers_per_slot", "search"), batch_divides),
)
_OF_FILES: tuple[Callable[[Sweep], Iterator[Finding]], ...] = (
    _bucket_can_be_reached,
    _model_can_be_read,
    _root_exists,
    _text_exists,
    _harness_tasks,
)
"""Checks that depend on the machine: done where a sweep is read or run, not where its records are only displayed."""
_OF_NEW_SWEEPS: tuple[Callable[[Sweep], Iterator[Finding]], ...] = (
    _extra_without_effect,
    options_fit_together,
    owned_options,
    sampler_has_options,
    settled_fields,
    steps_or_epochs,
    values_are_the_fields,
)
"""Checks of what has no effect, which earlier versions let pass: a sweep that they began must run to its end."""
