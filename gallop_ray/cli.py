"""The command line. Everything heavy is imported after the arguments have been understood."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from gallop_ray import __version__
from gallop_ray.export.request import TARGETS, checked
from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.problems import SweepFileError
from gallop_ray.spec.schema import Sweep

_USER_ERROR, _FAILED, _INTERRUPTED = 2, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0 for done, 1 for failed runs, 2 for what the user has to mend, 130 for interrupted."""
    parsed = _parser().parse_args(arguments)
    try:
        code: int = parsed.command(parsed)
    except SweepFileError as error:
        print(error, file=sys.stderr)
        return _USER_ERROR
    except ValueError as error:
        print(f"gallop-ray: {error}", file=sys.stderr)
        return _USER_ERROR
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gallop-ray", description="Distributed sweeps of sparse fine-tuning.")
    parser.add_argument("--version", action="version", version=f"gallop_ray {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, text in (
        ("validate", _validate, "check a sweep file; every mistake with its line"),
        ("plan", _plan, "print the resolved sweep, its runs and steps, and the memory a worker needs"),
        ("run", _run, "run a sweep, or go on where an earlier start stopped"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("sweep", help="the sweep file")
        sub.add_argument(
            "--set",
            dest="overrides",
            action="append",
            default=[],
            metavar="PATH=VALUE",
            help="override a field by its dotted path, for example training.learning_rate=1e-4",
        )
        sub.set_defaults(command=command)
        if name == "run":
            sub.add_argument("--verbose", action="store_true", help="show what Ray and DeepSpeed say, too")
    _add_export(commands)
    ui = commands.add_parser("ui", help="open the MLflow UI on what was logged")
    ui.add_argument("--output", default="runs", help="the folder of sweeps (default: runs)")
    ui.add_argument("--uri", help="another MLflow store")
    ui.add_argument("--port", type=int, default=5000)
    ui.add_argument("--no-browser", action="store_true", help="only print the address")
    ui.set_defaults(command=_ui)
    return parser


def _add_export(commands: Any) -> None:
    text = "write a finished run's adapter in a form that other tools load"
    export = commands.add_parser("export", help=text, description=text)
    export.add_argument("run", metavar="RUN", help="the run folder, <output>/<sweep>/<configuration>/seed-<n>")
    export.add_argument(
        "--to",
        required=True,
        choices=TARGETS,
        help="delta: our own adapter file, for gallop_ray.apply_adapter; peft: a folder for PEFT (SHiRA, or LoRA's "
        "own); merged: a plain transformers folder",
    )
    export.add_argument(
        "--output", metavar="PATH", help="the folder to write (default: <configuration>-seed-<n>-<to> here)"
    )
    export.set_defaults(command=_export)


def _load(arguments: argparse.Namespace) -> Sweep:
    return load_sweep(arguments.sweep, arguments.overrides)


def _validate(arguments: argparse.Namespace) -> int:
    sweep = _load(arguments)
    print(f"{arguments.sweep}: fine; sweep {sweep.name}, methods {', '.join(m.name for m in sweep.methods)}")
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    sweep = _load(arguments)
    from gallop_ray.sweep.preview import print_plan

    print_plan(sweep)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    sweep = _load(arguments)
    from gallop_ray.sweep.driver import located, run_sweep
    from gallop_ray.sweep.halt import Halted
    from gallop_ray.sweep.summary import print_summary

    sweep = located(sweep)
    try:
        folder = run_sweep(sweep, arguments.verbose)
    except KeyboardInterrupt:
        print("\ninterrupted; what was finished is kept. The same command goes on from here.", file=sys.stderr)
        return _INTERRUPTED
    except Halted as halt:
        print(f"stopped: {halt}. What was finished is kept; the same command goes on from here.", file=sys.stderr)
        return _FAILED
    return 0 if print_summary(folder, sweep) else _FAILED


def _export(arguments: argparse.Namespace) -> int:
    request = checked(arguments.run, arguments.to, arguments.output)
    from gallop_ray.export.write import export

    print(export(request))
    return 0


def _ui(arguments: argparse.Namespace) -> int:
    from gallop_ray.tracking.mlflow_store import default_uri
    from gallop_ray.tracking.ui import open_ui

    return open_ui(arguments.uri or default_uri(arguments.output), arguments.port, not arguments.no_browser)
