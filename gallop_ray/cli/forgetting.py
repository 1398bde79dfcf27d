"""What `gallop-ray init` proposes to measure forgetting on, where the data itself has no other tasks."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gallop_ray.spec.basics import BASICS, BASICS_TEXT, basics_entry
from gallop_ray.spec.data import DataSpec, ModelSpec
from gallop_ray.spec.problems import did_you_mean
from gallop_ray.spec.tasks import is_local
from gallop_ray.tasks.hub import HUB_TASKS

Entries = Mapping[str, Mapping[str, str]]
"""OOD tasks by name with their entries in data.tasks; empty ones are tasks of data.root."""
_LONGEST, _BATCH = 256, 16


def entries_of(words: Sequence[str], train: str, hub: bool, name_of: Callable[[str], str]) -> Entries:
    """What the user names: tasks that come with the package, files, folders, tasks of the harness.

    hub: whether the hub's tasks are among what may be named, being those of data.root. Raises ValueError for a word
    that is none of these.
    """
    found = dict(_entry(word, hub, name_of) for word in words if word != "none")
    if train in found:
        raise ValueError(f"{train} is the task to train on; name other tasks, or none")
    return found


def _entry(word: str, hub: bool, name_of: Callable[[str], str]) -> tuple[str, Mapping[str, str]]:
    if hub and word in HUB_TASKS:
        return word, {}
    if word in BASICS:
        return word, basics_entry(word)
    if word.endswith((".yaml", ".yml")) and Path(word).is_file():
        return name_of(word), {"harness": word}
    if is_local(word):
        return name_of(word), {"source": word}
    known = [*(HUB_TASKS if hub else ()), *BASICS]
    raise ValueError(
        f"no task {word}; there are {', '.join(known)}{did_you_mean(word, known)}, or give the path of a file, of a "
        "folder, or of a task file of lm-evaluation-harness"
    )


def proposed(model: str, train: str, chat: bool) -> tuple[list[str], list[str], str | None]:
    """Of the tasks that come with the package those that the base model is above chance on; what to say; the text.

    All of them where the model cannot be tried here.
    """
    names = [name for name in BASICS if name != train]
    # Here: torch, which an answer to a question does without.
    from gallop_ray.preflight.proposals import lines, loaded, propose, untried
    from gallop_ray.tasks.settings import EvaluationSettings

    here = loaded(ModelSpec(name=model))
    if isinstance(here, str):
        return names, list(lines(untried(names), here)), BASICS_TEXT
    prompt = "chat" if chat else DataSpec.model_fields["prompt"].default
    tasks = {name: basics_entry(name) for name in names}
    data = DataSpec.model_validate({"root": "generated", "tasks": tasks, "train": "range", "ood": names})
    found = propose(*here, data, EvaluationSettings(prompt, _LONGEST, _BATCH))
    taken = [each.task for each in found if each.above is not False]
    return taken, list(lines(found)), BASICS_TEXT if taken else None
