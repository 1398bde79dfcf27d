"""The commands that take a sweep file."""

import argparse
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from gallop_ray.cli.apart import LOG, libraries_apart
from gallop_ray.cli.watched import AGAIN, FAILED, INTERRUPTED, TERMINATED, LastWord
from gallop_ray.disk.bucket.address import placed
from gallop_ray.reporting.terminal import Terminal
from gallop_ray.spec.checks import is_begun
from gallop_ray.spec.configuration import names_code, trainings
from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.other_methods import HybridSpec, PeftSpec
from gallop_ray.spec.problems import Path
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.search import PLAIN_SAMPLERS, PRUNINGS


def add_sweep_file_commands(commands: Any) -> None:
    """Add init, submit, schema, doctor, validate, plan and run to the subparsers."""
    _add_init(commands)
    _add_submit(commands)
    _add_schema(commands)
    _add_doctor(commands)
    for name, command, text in (
        ("validate", _validate, "check a sweep file; every mistake with its line"),
        ("plan", _plan, "print a sweep's runs and steps, what each method trains, and the memory a worker needs"),
        ("run", _run, "run a sweep, or resume it where an earlier start stopped"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("sweep", help="the sweep file")
        _add_overrides(sub)
        sub.set_defaults(command=command, sweeps=name == "run")
        if name == "plan":
            text = "run a few steps of each method on this machine, and estimate how long the sweep will take"
            sub.add_argument("--probe", action="store_true", help=text)
            sub.add_argument("--all", action="store_true", help="print every field with its value, too")
        if name == "run":
            sub.add_argument("--verbose", action="store_true", help="also show the output of Ray and DeepSpeed")


def _add_submit(commands: Any) -> None:
    text = "check a sweep file here, and run it as a job of a Ray cluster; the same command resumes it"
    sub = commands.add_parser("submit", help=text, description=text)
    sub.add_argument("sweep", help="the sweep file")
    sub.add_argument("--address", metavar="URL", help="the dashboard, http://HEAD:8265 (RAY_API_SERVER_ADDRESS)")
    until = sub.add_mutually_exclusive_group()
    until.add_argument("--wait", action="store_true", help="until the sweep has ended, and take its exit code")
    until.add_argument("--follow", action="store_true", help="the same, and show what it prints")
    _add_overrides(sub)
    sub.set_defaults(command=_submit)


def _add_init(commands: Any) -> None:
    text = "write a first sweep file, from flags and, at a terminal, a few questions"
    init = commands.add_parser("init", help=text, description=text)
    init.add_argument("path", nargs="?", metavar="PATH", help="the file to write (default: <name>.yaml)")
    init.add_argument("--name", help="the sweep's name (default: the file's)")
    data = "a file or glob of JSONL, CSV, Parquet, ..., a folder, a hub id, hub or generated"
    init.add_argument("--data", help=data)
    init.add_argument("--train", metavar="TASK", help="the task to train on (default: the first that can be)")
    init.add_argument("--ood", nargs="*", metavar="TASK", help="tasks it may forget (default: all others)")
    init.add_argument("--model", help="a model folder, a hub id, pocket or smollm2-135m")
    init.add_argument(
        "--methods", nargs="+", metavar="METHOD", help="methods to compare (default: gallop random lora full)"
    )
    init.add_argument("--seeds", metavar="N", help="how many seeds (default: 3, the fewest for a verdict)")
    init.add_argument("--gpus", metavar="N", help="GPUs for one run, 0 for the CPU (default: 1 where there is one)")
    init.add_argument("--force", action="store_true", help="overwrite the file")
    init.set_defaults(command=_init)


def _add_schema(commands: Any) -> None:
    text = "print the sweep file's JSON Schema, for completion and checks in an editor"
    schema = commands.add_parser("schema", help=text, description=text)
    schema.add_argument("--markdown", action="store_true", help="print the reference of all fields instead")
    schema.set_defaults(command=_schema)


def _add_doctor(commands: Any) -> None:
    text = "check this machine, or the cluster of RAY_ADDRESS, and what a sweep file needs of it"
    doctor = commands.add_parser("doctor", help=text, description=text)
    doctor.add_argument(
        "sweep", nargs="?", metavar="SWEEP", help="also check the data, the model and the memory of this"
    )
    _add_overrides(doctor)
    doctor.set_defaults(command=_doctor)


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="override a field by its dotted path, for example training.steps=50",
    )


def _init(arguments: argparse.Namespace) -> int:
    from gallop_ray.cli.init import init

    return init(arguments)


def _schema(arguments: argparse.Namespace) -> int:
    from gallop_ray.spec.json_schema import schema_text
    from gallop_ray.spec.reference import fields_markdown

    print(fields_markdown() if arguments.markdown else schema_text(), end="")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    sweep = _load(arguments) if arguments.sweep else None
    from gallop_ray.preflight.doctor import examine

    return examine(sweep)


def _load(arguments: argparse.Namespace) -> Sweep:
    sweep = load_sweep(arguments.sweep, arguments.overrides, _refused_by_libraries)
    if not sweep.data.tasks:
        return sweep
    from gallop_ray.tasks.objective import with_default_objective

    return with_default_objective(sweep)


def _refused_by_libraries(sweep: Sweep) -> Iterator[tuple[Path, str]]:
    """What PEFT, torch, Optuna or a user's rule refuse; imported only if a sweep needs them, as that takes seconds."""
    if any(isinstance(method, PeftSpec | HybridSpec) for method in sweep.methods):
        from gallop_ray.methods.peft import refused_by_peft

        yield from refused_by_peft(sweep)
    if sweep.search.sampler not in PLAIN_SAMPLERS:
        from gallop_ray.search.samplers import refused_sampler

        yield from refused_sampler(sweep)
    used = [each for method in sweep.methods for each in trainings(sweep, method)]
    if not is_begun(sweep) and any(map(names_code, used)):
        from gallop_ray.training.optimizers import refused_training

        yield from refused_training(sweep)
    if sweep.search.warm_start:
        from gallop_ray.search.warm_start import refused_warm_start

        yield from refused_warm_start(sweep)
    if sweep.pruning.type not in PRUNINGS:
        from gallop_ray.search.pruning import refused_rule

        yield from refused_rule(sweep)


def _validate(arguments: argparse.Namespace) -> int:
    sweep = _load(arguments)
    print(f"{arguments.sweep}: fine; sweep {sweep.name}, methods {', '.join(m.name for m in sweep.methods)}")
    _print_advice(sweep)
    print(f"its data and model: gallop-ray doctor {arguments.sweep}")
    return 0


def _print_advice(sweep: Sweep) -> None:
    from gallop_ray.analysis.advice import advice

    for sentence in advice(sweep):
        print(f"note: {sentence}")


def _plan(arguments: argparse.Namespace) -> int:
    sweep = _load(arguments)
    from gallop_ray.preflight.plan import print_plan

    print_plan(sweep, arguments.all)
    _print_advice(sweep)
    if arguments.probe:
        from gallop_ray.sweep.driver import located
        from gallop_ray.sweep.probe import print_probe

        print_probe(located(sweep))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    sweep = _load(arguments)
    _print_advice(sweep)
    from gallop_ray.sweep.driver import located

    return run(located(sweep), arguments, arguments.sweep)


def _submit(arguments: argparse.Namespace) -> int:
    sweep = _load(arguments)
    from gallop_ray.cli.submit import submit

    return submit(sweep, arguments)


def run(sweep: Sweep, arguments: argparse.Namespace, file: str | None = None) -> int:
    """Run a sweep with absolute paths that was read from `file`. Returns the command's exit code."""
    from gallop_ray.errors import Halted
    from gallop_ray.records.control import StoppedNow, Terminated
    from gallop_ray.reporting.summary import print_summary
    from gallop_ray.sweep.driver import run_sweep

    word: LastWord = arguments.word or LastWord()
    try:
        with _apart(sweep, arguments, word) as terminal:
            folder = run_sweep(sweep, arguments.verbose, file, terminal)
    except StoppedNow:
        word.say(f"stopped. {AGAIN}")
        return 0
    except Terminated:
        word.say(f"terminated. {AGAIN}")
        return TERMINATED
    except KeyboardInterrupt:
        word.say(f"\ninterrupted. {AGAIN}")
        return INTERRUPTED
    except Halted as halt:
        word.stopped(str(halt))
        return FAILED
    return 0 if print_summary(folder, sweep) else FAILED


def _apart(sweep: Sweep, arguments: argparse.Namespace, word: LastWord) -> AbstractContextManager[Terminal | None]:
    """In its own process a sweep keeps the output of libraries off the terminal, unless verbose."""
    if arguments.word is None or arguments.verbose:
        return nullcontext()
    folder = placed(f"{sweep.output}/{sweep.name}")
    word.log = folder / LOG
    return libraries_apart(folder)
