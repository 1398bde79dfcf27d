"""The checks of what a sweep names outside its file: the model, the data, the texts and the places it writes to."""

from collections.abc import Iterator
from pathlib import Path as FilePath

from gallop_ray.disk.bucket.address import address_parts, is_bucket, is_installed
from gallop_ray.disk.tensors import DELTA, adapter_file, metadata_of
from gallop_ray.spec.harness import task_path
from gallop_ray.spec.model_folder import MODEL_PRESETS, folder_problem, name_problem, position_table, read_config
from gallop_ray.spec.places import is_file, is_folder
from gallop_ray.spec.problems import Finding, did_you_mean, shown
from gallop_ray.spec.references import addresses
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.secrets import hidden
from gallop_ray.spec.tasks import OF_SOURCES, TaskSpec, is_local, is_missing, kind_of_file

_DATABASES = ("sqlite", "postgresql", "mysql")
_READ = "give a path, a hub id, or an address in a bucket (s3://)"


def model_can_be_read(sweep: Sweep) -> Iterator[Finding]:
    """A model that is nowhere, that its files show to be broken, or with fewer positions than max_length."""
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


def delta_can_be_read(sweep: Sweep) -> Iterator[Finding]:
    """A delta that is nowhere, or no delta. Whether it fits the model, loading the model shows."""
    given = sweep.model.delta
    if given is None or is_bucket(given):
        return
    file = adapter_file(FilePath(given).expanduser())
    try:
        kind = metadata_of(file).get("format")
    except FileNotFoundError:
        # An absolute path may be there on the cluster to which this is submitted.
        if not given.startswith("/"):
            yield (
                (("model", "delta"),),
                f"{shown(given)} is not there; give the folder of a run or of an exported delta",
            )
        return
    except (OSError, ValueError) as error:
        yield (("model", "delta"),), f"{shown(given)} cannot be read: {error}"
        return
    if kind != DELTA:
        yield (("model", "delta"),), f"{shown(given)} is no delta of a mask, which alone can be a part of a base model"


def revision_is_of_a_hub_id(sweep: Sweep) -> Iterator[Finding]:
    """A revision of what has only one."""
    name = sweep.model.name
    if sweep.model.revision is not None and (name in MODEL_PRESETS or is_bucket(name) or is_folder(name)):
        yield (("model", "revision"),), f"is not allowed with {shown(name)}, which is no hub id and has one version"


def root_exists(sweep: Sweep) -> Iterator[Finding]:
    """A root that is no folder."""
    root = sweep.data.root
    if root not in ("hub", "generated") and not is_folder(root) and not is_bucket(root):
        allowed = "`hub`, `generated`, a folder or an address in a bucket (s3://)"
        message = f"{shown(hidden(root))} is not allowed; must be {allowed}, and there is no such folder"
        yield (("data", "root"),), message + did_you_mean(root, ("hub", "generated"))


def sources_exist(sweep: Sweep) -> Iterator[Finding]:
    """Sources of tasks that are not there, and fields about a source where there is none."""
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
            if "://" in text and not is_bucket(text):
                yield ((*path, *part), path), f"{shown(hidden(text))} is not allowed; {_READ}"
            elif is_missing(text):
                yield ((*path, *part), path), f"{shown(text)} is not allowed; there is no such file"
        for field in ("config", "revision"):
            if getattr(task, field) is not None and is_local(task.source):
                yield ((*path, field), path), f"is not allowed with {shown(task.source)}, which is no hub id"


def text_exists(sweep: Sweep) -> Iterator[Finding]:
    """General text that is not there, or not in the form that is read."""
    text = sweep.evaluation.text
    if not text:
        return
    there = is_bucket(text) or is_file(text)
    if is_folder(text) or (there and not text.endswith(".jsonl")):
        yield (("evaluation", "text"),), f"{shown(text)} is not allowed; give a .jsonl file with a field `text`"
    elif not there and (kind_of_file(text) or text.startswith((".", "/", "~"))):
        yield (("evaluation", "text"),), f"{shown(text)} is not allowed; there is no such file"
    elif text.lower() in ("none", "no", "off"):
        yield (("evaluation", "text"),), f"{shown(text)} is not allowed; null leaves it out"


def harness_tasks(sweep: Sweep) -> Iterator[Finding]:
    """Tasks of lm-evaluation-harness that it does not have, or that are trained on without a source."""
    for name in dict.fromkeys((*sweep.data.read_tasks, *sweep.data.ood)):
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


def no_addresses(sweep: Sweep) -> Iterator[Finding]:
    """Addresses that nothing here can open: taken for a hub id or a relative path, they would fail late."""
    places = {("model", "name"): sweep.model.name, ("evaluation", "text"): sweep.evaluation.text}
    for path, value in places.items():
        if value and "://" in value and not is_bucket(value):
            yield (path,), f"{shown(hidden(value))} is not allowed; {_READ}"
    storage = sweep.search.storage
    if storage and "://" in storage and storage.partition(":")[0].partition("+")[0] not in _DATABASES:
        message = f"{shown(hidden(storage))} is not allowed; must be the address of a database"
        yield (("search", "storage"),), f"{message}, which begins with {', '.join(f'{each}://' for each in _DATABASES)}"


def buckets_can_be_reached(sweep: Sweep) -> Iterator[Finding]:
    """Addresses in buckets that name no place there, or without the package that reaches it."""
    for path, address in {("output",): sweep.output, **addresses(sweep)}.items():
        if not is_bucket(address):
            continue
        if not is_installed():
            message = f"{shown(address)} is not allowed here; buckets need obstore, pip install 'gallop_ray[cloud]'"
            yield (path,), message
        elif path != ("output",) and (problem := _no_place(address)):
            yield (path,), f"{shown(address)} is not allowed; {problem}"


def _no_place(address: str) -> str | None:
    try:
        address_parts(address)
    except ValueError as error:
        return str(error)
    return None
