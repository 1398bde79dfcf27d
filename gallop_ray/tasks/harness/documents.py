"""Documents of a harness task: how it is loaded, and which are for validation and which for testing."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from gallop_ray.compat.lm_eval import task_file
from gallop_ray.spec.harness import task_path
from gallop_ray.spec.problems import first_line
from gallop_ray.tasks.examples import shuffled

FEWSHOT_SEED = 1234
"""The harness' own default."""
_DATA_FILES = "data_files"


def load(name: str, num_fewshot: int | None) -> Any:
    """A task of the harness. Raises ValueError, in one line, where it cannot be had."""
    path = task_path(name)
    try:
        with quiet():
            config = task_file(path)
            shots = config.get("num_fewshot")
            _find_files(config, path.parent)
            task = next(iter(TaskManager(include_defaults=False).load([config])["tasks"].values()))
    except Exception as error:  # whatever YAML, a task's own code, the hub or a data file raise
        raise ValueError(
            f"harness task {name} cannot be loaded: {type(error).__name__}: {first_line(error)} ({path})"
        ) from error
    _refuse(name, task)
    if num_fewshot is not None:
        if shots == 0 and num_fewshot:
            raise ValueError(f"harness task {name} has num_fewshot: 0 in its file, which stays ({path}); leave it out")
        task.set_config(key="num_fewshot", value=num_fewshot)
    task.set_fewshot_seed(FEWSHOT_SEED)
    return task


def _find_files(config: dict[str, Any], folder: Path) -> None:
    """Data files of relative paths lie beside the task's file, or where the harness looks: in the working folder."""
    options = config.get("dataset_kwargs")
    if isinstance(options, dict) and _DATA_FILES in options:
        config["dataset_kwargs"] = {**options, _DATA_FILES: _found(options[_DATA_FILES], folder)}


def _found(files: Any, folder: Path) -> Any:
    if isinstance(files, dict):
        return {key: _found(value, folder) for key, value in files.items()}
    if isinstance(files, list):
        return [_found(each, folder) for each in files]
    beside = folder / str(files)
    return str(beside) if beside.exists() else files


def _refuse(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise ValueError(f"harness task {name} runs what a model writes as code, which is not done here; leave it out")
    if getattr(task, "MULTIMODAL", False):
        raise ValueError(f"harness task {name} shows pictures or sound, and models read text here; leave it out")


@contextmanager
def quiet() -> Iterator[None]:
    """Without the harness' progress bars and remarks, which every worker would repeat."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            yield
    finally:
        log.setLevel(level)


def other_split(task: Any) -> str | None:
    """The split that validation may take documents from, because the harness tests on another; None where none is.

    The validation split where it tests on a test split, else the training split.
    """
    with suppress(AttributeError):  # tasks that are classes of their own name no splits
        config = task.config
        tested = config.test_split or config.validation_split
        return next(
            (each for each in (config.validation_split, config.training_split) if each not in (None, tested)), None
        )
    return None


def test_on(task: Any, split: str) -> None:
    """Let a task be tested on another of its splits, never shown a document among its own solved examples."""
    config = task.config
    shown = config.fewshot_config.split or config.training_split or config.validation_split or config.test_split
    if shown == split:
        config.fewshot_config.split = split
    task.set_config(key="test_split", value=split)


def asked(task: Any, document: Any) -> str:
    """What a document asks, its answers included: two that share it are the same to a model."""
    choices = task.doc_to_choice(document) if getattr(task.config, "doc_to_choice", None) else None
    return json.dumps([task.doc_to_text(document), task.doc_to_target(document), choices], default=str)


def first_documents(task: Any, most: int | None) -> list[int]:
    """The places of the documents that the harness takes with `--limit`."""
    count = len(task.eval_docs)
    return list(range(count if most is None else min(most, count)))


def drawn_documents(task: Any, most: int, seed: str, tested: set[str]) -> list[int]:
    """So many documents in a seeded order, but for those that are tested."""
    documents, found = task.eval_docs, list[int]()
    for place in shuffled(range(len(documents)), seed):
        if len(found) == most:
            break
        if asked(task, documents[place]) not in tested:
            found.append(place)
    return sorted(found)


def dealt_documents(task: Any, validation: int, most: int | None, seed: str) -> tuple[list[int], list[int]]:
    """Of one split's documents so many for validation, others for testing, at most `most`.

    They are dealt in turn in a seeded order, until validation has what it wants; the rest is tested. Documents that are
    the same go to one side, or are left out where it is full.
    """
    documents = task.eval_docs
    sides: tuple[list[int], list[int]] = ([], [])
    limits = (validation, len(documents) if most is None else most)
    home: dict[str, int] = {}
    for place in shuffled(range(len(documents)), seed):
        open_sides = [side for side in (0, 1) if len(sides[side]) < limits[side]]
        if not open_sides:
            break
        side = home.setdefault(asked(task, documents[place]), min(open_sides, key=lambda each: len(sides[each])))
        if side in open_sides:
            sides[side].append(place)
    return sorted(sides[0]), sorted(sides[1])


def documents_of(task: Any, places: Sequence[int]) -> set[str]:
    """What the documents at these places ask."""
    documents = task.eval_docs
    return {asked(task, documents[place]) for place in places}
