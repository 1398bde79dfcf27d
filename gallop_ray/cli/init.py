"""`gallop-ray init`: a first sweep file from flags, and from questions at an interactive terminal."""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import gallop_ray
from gallop_ray.cli.forgetting import entries_of, proposed
from gallop_ray.disk.bucket.inputs import brought
from gallop_ray.records.environment import environment_record
from gallop_ray.spec.data import DataSpec, Limits
from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.model_folder import WEIGHTS, name_problem
from gallop_ray.spec.plan import plan_sweep
from gallop_ray.spec.problems import SweepFileError, did_you_mean
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.starter import Answers, starter_methods, starter_text
from gallop_ray.spec.tasks import is_local, is_missing
from gallop_ray.tasks.examples import shuffled
from gallop_ray.tasks.folder import folder_examples, folder_splits, folder_tasks
from gallop_ray.tasks.generated import SOURCE_TASKS, TARGET_TASKS
from gallop_ray.tasks.hub import HUB_TASKS
from gallop_ray.tasks.load import load_task, load_tasks
from gallop_ray.tasks.own import OwnTask
from gallop_ray.tasks.references import misread

_METHODS = ("gallop", "random", "lora", "full")
_CHAT_PRESETS = ("smollm2-135m",)
_LOOKED_AT = 2000  # examples
_HUB_OOD = ("arc_challenge", "openbookqa", "boolq", "piqa")
T = TypeVar("T")
_Ask = Callable[[str, Any, str, Callable[[str], Any]], Any]


def init(arguments: argparse.Namespace) -> int:
    """Write the sweep file. Raises ValueError for an invalid answer, and for a file that exists already."""
    path = Path(arguments.path or f"{arguments.name or 'my_sweep'}.yaml")
    if path.exists() and not arguments.force:
        raise ValueError(f"{path} is there already; give another path, or --force to overwrite it")
    answers, schema = _answers(arguments, path), _schema_from(path.parent)
    answers = _measured(answers, _loaded(path, starter_text(answers, schema)))
    text = starter_text(answers, schema)
    sweep = _loaded(path, text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}); give another path") from error
    plan = plan_sweep(sweep, None)
    methods = f"{len(plan.methods)} method{'s' * (len(plan.methods) > 1)}"
    print(f"wrote {path}: {methods}, {plan.configurations} configurations x {plan.seeds} seeds = {plan.runs} runs")
    print("next:")
    for command, text in (
        ("doctor", "does this machine have what it needs?"),
        ("plan", "steps, trained parameters, memory; --probe says how long it takes"),
        ("run", "the same command resumes after a stop"),
    ):
        print(f"    {f'gallop-ray {command} {path}':<40} # {text}")
    return 0


def _answers(arguments: argparse.Namespace, path: Path) -> Answers:
    ask = _asked if sys.stdin.isatty() else _given
    asked = "Data: `generated`, `hub`, a file, a folder or a hub id"
    data = ask(asked, arguments.data, "generated", _data)
    source = None if _has_tasks(data) else data
    if source is not None:
        return _of_source(arguments, path, source, ask)
    tasks = _tasks(data)
    for line in _inventory(data):
        print(line)
    first = "arc_easy" if data == "hub" else "range" if data == "generated" else next(iter(tasks))
    train = ask("Task to train on", arguments.train, first, lambda text: _trainable(text, data, tasks))
    others = _others(data, train, tasks)
    usual = "pocket" if data == "generated" else "smollm2-135m"
    if not others:
        rest = _rest(arguments, path, ask, usual)
        return _with_others(arguments, ask, Answers(data=data, train=train, examples=_examples(data, train), **rest))
    ood = ask("Tasks it may forget", arguments.ood, " ".join(others), lambda text: _ood(text, train, tasks))
    rest = _rest(arguments, path, ask, usual)
    return Answers(data=data, train=train, ood=ood, examples=_examples(data, train), **rest)


def _with_others(arguments: argparse.Namespace, ask: "_Ask", answers: Answers) -> Answers:
    """Of data without other tasks: with some from elsewhere, so that forgetting is measured."""
    usual: list[str] = []
    text: str | None = None
    if arguments.ood is None:
        usual, said, text = proposed(answers.model, answers.train, answers.chat)
        print("\n".join(["no other task in the data, to see what is forgotten; of those that need no data:", *said]))
    entries = ask(
        "Tasks it may forget: names, or paths",
        arguments.ood,
        " ".join(usual) or "none",
        lambda given: entries_of(_words(given), answers.train, answers.data == "hub", _name_of),
    )
    own = {name: entry for name, entry in entries.items() if entry}
    return replace(answers, ood=tuple(entries), others=own, text=text)


def _of_source(arguments: argparse.Namespace, path: Path, source: str, ask: "_Ask") -> Answers:
    """Of a file, a folder or a hub id, which is the one task of data.tasks."""
    name = ask("Name of the task", arguments.train, _name_of(source), _task_name)
    data = DataSpec.model_validate({"tasks": {name: source}, "train": name})
    own = OwnTask(name, data.task(name), trained=True)
    found = load_task(name, data.model_copy(update={"limits": Limits(validation=None)}))
    held = "".join(f", {100 * share:g} % held out for {split}" for split, share in own.shares.items())
    print(f"{source}: {name}: {len(found.train)} train, {len(found.validation)} validation, {len(found.test)} test")
    print(f"{source}: format {own.format}{held}")
    rest = _rest(arguments, path, ask, "smollm2-135m")
    example = found.train[0]
    answers = Answers(
        data="hub",
        train=name,
        examples=len(found.train),
        source=source,
        format=own.format,
        read=f"found by the columns{held}",
        free=example.kind in ("text", "plain"),
        **rest,
    )
    return _with_others(arguments, ask, answers)


def _name_of(source: str) -> str:
    """A name for the task of a source: its file's or folder's."""
    stem = Path(source.rstrip("/")).name.split(".")[0]
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")
    return name or "mine"


def _task_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text):
        raise ValueError(f"{text} is no name for a task; take letters, digits, `_`, `.` and `-`")
    return text


def _has_tasks(data: str) -> bool:
    """Whether this is `hub`, `generated` or a folder of <task>.<split>.jsonl, and not the source of one task."""
    if data in ("hub", "generated"):
        return True
    root = _folder(data)
    return root.is_dir() and any("train" in folder_splits(root, task) for task in folder_tasks(root))


def _rest(arguments: argparse.Namespace, path: Path, ask: "_Ask", usual: str) -> dict[str, Any]:
    """What is asked whatever the data is."""
    model = ask("Model: a folder, a hub id, `pocket` or `smollm2-135m`", arguments.model, usual, _model)
    methods = ask(f"Methods, of {', '.join(starter_methods())}", arguments.methods, " ".join(_METHODS), _methods)
    seeds = ask("Seeds", arguments.seeds, "3", lambda text: _whole(text, 1))
    here = len(environment_record()["gpus"])
    gpus = ask("GPUs for one run (0: CPU)", arguments.gpus, str(min(here, 1)), lambda text: _whole(text, 0))
    name = arguments.name or re.sub(r"[^A-Za-z0-9_.-]", "_", path.stem)
    return {
        **{"name": name, "model": model, "methods": methods},
        **{"seeds": seeds, "gpus": gpus, "chat": _has_chat(model)},
    }


def _given(question: str, flag: str | Sequence[str] | None, default: str, check: Callable[[str], T]) -> T:
    return check(_text(flag) if flag is not None else default)


def _asked(question: str, flag: str | Sequence[str] | None, default: str, check: Callable[[str], T]) -> T:
    """The flag, else the answer at the terminal, asked for until it is valid."""
    if flag is not None:
        return check(_text(flag))
    while True:
        try:
            return check(input(f"{question} [{default}]: ").strip() or default)
        except ValueError as error:
            print(f"  {error}")
        except (EOFError, KeyboardInterrupt):
            raise ValueError("\nended without an answer; nothing was written") from None


def _text(flag: str | Sequence[str]) -> str:
    return flag if isinstance(flag, str) else " ".join(flag)


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(re.split(r"[\s,]+", text.strip(" ,[]")))) if text.strip(" ,[]") else ()


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"{text} is not allowed; must be a whole number, at least {least}")
    return int(text)


def _data(text: str) -> str:
    if is_missing(text) or ("/" not in text and text not in ("hub", "generated") and not is_local(text)):
        raise ValueError(f"there is no file or folder {text}; give a path, a hub id, `hub` or `generated`")
    return text


def _folder(place: str, without: tuple[str, ...] = ()) -> Path:
    return Path(brought(place, without)).expanduser()


def _tasks(data: str) -> list[str]:
    """The tasks of a source; in a folder, those that can be trained on come first."""
    if data in ("hub", "generated"):
        return list(HUB_TASKS if data == "hub" else {**TARGET_TASKS, **SOURCE_TASKS})
    root = _folder(data)
    return sorted(folder_tasks(root), key=lambda task: "train" not in folder_splits(root, task))


def _inventory(data: str) -> list[str]:
    """The contents of a folder; an unusable line is reported with its number."""
    if data in ("hub", "generated"):
        return []
    root, lines = _folder(data), []
    for task in _tasks(data):
        examples = {split: folder_examples(root, task, split) for split in folder_splits(root, task)}
        counts = [f"{len(each)} {split}" for split, each in examples.items()]
        lines.append(f"{data}: {task}: {', '.join(counts)}")
        wrong = {split: found for split, each in examples.items() if (found := misread(each))}
        lines += [f"warning: {task}.{split}: {found}. {found.fix}" for split, found in wrong.items()]
    return lines


def _examples(data: str, train: str) -> int | None:
    if data in ("hub", "generated"):
        return None
    return len(folder_examples(_folder(data), train, "train"))


def _trainable(text: str, data: str, tasks: Sequence[str]) -> str:
    task = _known(text, tasks, "task")
    if data in ("hub", "generated") or "train" in folder_splits(_folder(data), task):
        return task
    able = [each for each in tasks if "train" in folder_splits(_folder(data), each)]
    raise ValueError(f"{task} has no training examples; there are {', '.join(able)} to train on")


def _others(data: str, train: str, tasks: Sequence[str]) -> list[str]:
    """The default tasks to measure forgetting on: those with a test set."""
    if data == "hub":
        return [task for task in _HUB_OOD if task != train]
    if data == "generated":
        return [task for task in SOURCE_TASKS if task != train]
    return [task for task in tasks if task != train and "test" in folder_splits(_folder(data), task)]


def _ood(text: str, train: str, tasks: Sequence[str]) -> tuple[str, ...]:
    found = tuple(_known(word, tasks, "task") for word in _words(text) if word != "none")
    if train in found:
        raise ValueError(f"{train} is the task to train on; name other tasks, or none")
    return found


def _methods(text: str) -> tuple[str, ...]:
    if not _words(text):
        raise ValueError("name at least one method")
    return tuple(_known(word, starter_methods(), "method") for word in _words(text))


def _known(word: str, known: Sequence[str], what: str) -> str:
    if word not in known:
        more = "; PEFT's other tuners go into the file by hand, see docs/methods.md" if what == "method" else ""
        raise ValueError(f"no {what} {word}; there are {', '.join(known)}{did_you_mean(word, known)}{more}")
    return word


def _model(text: str) -> str:
    folder = _folder(text, WEIGHTS)
    if folder.is_dir() and not (folder / "config.json").exists():
        raise ValueError(f"{text} has no config.json; a model folder is what transformers' save_pretrained writes")
    if problem := name_problem(text):
        raise ValueError(problem)
    return text


def _has_chat(model: str) -> bool:
    folder = _folder(model, WEIGHTS)
    configuration = folder / "tokenizer_config.json"
    return (
        model in _CHAT_PRESETS
        or (folder / "chat_template.jinja").exists()
        or (configuration.exists() and '"chat_template"' in configuration.read_text(encoding="utf-8"))
    )


def _schema_from(folder: Path) -> str | None:
    """The path of this checkout's schema from a folder; an installed package has none."""
    schema = Path(gallop_ray.__file__).parents[1] / "docs/sweep.schema.json"
    return os.path.relpath(schema, folder.resolve()) if schema.exists() else None


def _measured(answers: Answers, sweep: Sweep) -> Answers:
    """The answers with the lengths of texts, if data and tokenizer are local folders."""
    if answers.data in ("hub", "generated") and answers.source is None:
        return answers
    from gallop_ray.tasks.lengths import text_lengths
    from gallop_ray.training.models import local_tokenizer

    tasks, tokenizer = load_tasks(sweep, [answers.train] if answers.source else None), local_tokenizer(sweep.model)
    if tokenizer is None:
        return answers
    examples = [one for task in tasks.values() for one in (*task.train, *task.validation, *task.test)]
    found = text_lengths(shuffled(examples, "lengths")[:_LOOKED_AT], tokenizer, sweep.data.prompt)
    usual = sweep.evaluation
    enough = found.option <= usual.new_tokens() and found.reasoning <= usual.new_tokens(reasoning=True)
    new_tokens = None if enough else max(found.option, found.reasoning)
    return replace(answers, longest=max(found.texts), new_tokens=new_tokens)


def _loaded(path: Path, text: str) -> Sweep:
    """The sweep of a file before it is written. Raises ValueError for one that does not load."""
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / path.name
        draft.write_text(text, encoding="utf-8")
        try:
            return load_sweep(draft)
        except SweepFileError as error:
            raise ValueError("; ".join(f"{each.field}: {each.message}" for each in error.problems)) from None
